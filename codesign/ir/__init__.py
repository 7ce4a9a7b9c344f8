"""The graph: loading, lowering to ONNX, facts on nodes, running it differentiably in torch."""
