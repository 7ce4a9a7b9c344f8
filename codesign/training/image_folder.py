"""Images in one folder per class, on disk or inside a `.zip` that is never unpacked."""

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from codesign.errors import InputError
from codesign.progress import Progress
from codesign.training.dataset import Dataset

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
EIGHT_BIT_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"})
GREY_MODES = frozenset({"1", "L"})
DECODE_ERRORS = (
    OSError,
    SyntaxError,  # Pillow's word for a malformed PNG
    ValueError,
    EOFError,
    RuntimeError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    Image.DecompressionBombError,
)
CHUNK = 128
"""Images that one task of a thread decodes."""


@dataclass(frozen=True)
class _Tree:
    """Names below a root, `/` between parts and at the end of a folder, and how to read one."""

    source: str
    names: tuple[str, ...]
    read: Callable[[str], bytes]


def load_image_folder(path: Path, progress: Progress) -> Dataset:
    """Decodes `class/image` files; labels follow the alphabetical order of the class names.

    Images become RGB unless all of them are grey. One folder around all classes is skipped over.

    Args:
        path: A folder or a `.zip`.
        progress: Told of every decoded image and of files that are no images.

    Returns:
        uint8 images `[N, H, W, 3]`, or `[N, H, W, 1]` where all are grey, by class and then by name.

    Raises:
        InputError: There is no class, a class is empty, or an image is broken or of another size; it is named.
    """
    with _open_tree(path) as tree:
        by_class = _by_class(tree, progress)
        names = [name for files in by_class.values() for name in files]
        images = _decode_all(tree, names, progress)
    labels = np.repeat(np.arange(len(by_class)), [len(files) for files in by_class.values()])
    return Dataset.of(images, labels, str(path), tuple(by_class))


@contextmanager
def _open_tree(path: Path) -> Iterator[_Tree]:
    if path.is_dir():
        yield _Tree(str(path), tuple(_walk(path)), lambda name: (path / name).read_bytes())
        return
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: is not a readable zip archive ({error}); fetch or pack it again") from None
    with archive:
        yield _Tree(str(path), tuple(archive.namelist()), archive.read)


def _walk(root: Path) -> Iterator[str]:
    for folder, folders, files in os.walk(root, followlinks=True):
        relative = Path(folder).relative_to(root)
        yield from ((relative / name).as_posix() + "/" for name in folders)
        yield from ((relative / name).as_posix() for name in files)


def _by_class(tree: _Tree, progress: Progress) -> dict[str, list[str]]:
    """File names of each class, both in alphabetical order."""
    visible = [name for name in tree.names if not _hidden(name)]
    files = sorted(name for name in visible if not name.endswith("/"))
    images = [name for name in files if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES]
    if len(images) < len(files):
        other = next(name for name in files if PurePosixPath(name).suffix.lower() not in IMAGE_SUFFIXES)
        progress.note(f"{tree.source}: left out {len(files) - len(images)} files that are no images, such as {other}")
    depth = _class_depth(images)
    classes: dict[str, list[str]] = {}
    for name in visible:
        parts = PurePosixPath(name).parts
        if len(parts) > depth + 1 or (len(parts) == depth + 1 and name.endswith("/")):
            classes.setdefault(parts[depth], [])
    for name in images:
        parts = PurePosixPath(name).parts
        if len(parts) < depth + 2:
            raise InputError(f"{tree.source}: image {name} lies in no class folder; move it to CLASS/{parts[-1]}")
        classes[parts[depth]].append(name)
    empty = sorted(name for name, members in classes.items() if not members)
    if empty or not classes:
        what = f"class folder {empty[0]} holds no image" if empty else "holds no class folder"
        kinds = ", ".join(sorted(IMAGE_SUFFIXES))
        raise InputError(f"{tree.source}: {what}; it must hold CLASS/IMAGE files ({kinds}), and no other folders")
    return dict(sorted(classes.items()))


def _hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)


def _class_depth(images: list[str]) -> int:
    """1 where a single folder lies around all class folders, else 0."""
    parts = [PurePosixPath(name).parts for name in images]
    return int(bool(parts) and len({p[0] for p in parts}) == 1 and min(map(len, parts)) >= 3)


def _decode_all(tree: _Tree, names: list[str], progress: Progress) -> NDArray[np.uint8]:
    Image.init()  # once, before threads do it side by side
    images = _allocate(tree, names)
    chunks = [slice(start, start + CHUNK) for start in range(0, len(names), CHUNK)]
    grey_chunks = []
    pool = ThreadPoolExecutor(max_workers=os.cpu_count())
    progress.start(f"decoding {tree.source}", len(names))
    try:
        for chunk, grey in zip(chunks, pool.map(lambda c: _decode_chunk(tree, names, images, c), chunks), strict=True):
            grey_chunks.append(grey)
            progress.advance(len(names[chunk]))
    finally:
        pool.shutdown(cancel_futures=True)
        progress.finish()
    return np.ascontiguousarray(images[..., :1]) if all(grey_chunks) else images


def _allocate(tree: _Tree, names: list[str]) -> NDArray[np.uint8]:
    """Room for all images, each of the first one's size."""
    first, _ = _decode(tree, names[0])
    try:
        return np.empty((len(names), *first.shape), dtype=np.uint8)
    except MemoryError:
        gigabytes = len(names) * first.size / 1e9
        raise InputError(
            f"{tree.source}: {len(names)} images of shape {list(first.shape)} need {gigabytes:.1f} GB of memory; "
            "use fewer or smaller images"
        ) from None


def _decode_chunk(tree: _Tree, names: list[str], images: NDArray[np.uint8], chunk: slice) -> bool:
    """Fills `images[chunk]`; tells whether all of them were grey."""
    all_grey = True
    for name, place in zip(names[chunk], images[chunk], strict=True):
        image, grey = _decode(tree, name)
        if image.shape != place.shape:
            raise InputError(
                f"{tree.source}: {name} has height x width {image.shape[0]}x{image.shape[1]}, but "
                f"{names[0]} has {place.shape[0]}x{place.shape[1]}; resize all images to one size"
            )
        place[...] = image
        all_grey = all_grey and grey
    return all_grey


def _decode(tree: _Tree, name: str) -> tuple[NDArray[np.uint8], bool]:
    """One image as `[H, W, 3]`, and whether it was grey."""
    try:
        with Image.open(io.BytesIO(tree.read(name))) as image:
            mode = image.mode
            if mode in EIGHT_BIT_MODES:
                return np.asarray(image.convert("RGB"), dtype=np.uint8), mode in GREY_MODES
    except DECODE_ERRORS as error:
        raise InputError(f"{tree.source}: {name} cannot be read as an image ({error}); repair or remove it") from None
    raise InputError(
        f"{tree.source}: {name} has pixels of mode {mode}, not 8 bits per channel; convert it, for example to PNG"
    )
