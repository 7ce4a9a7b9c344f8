"""Which point of a search space is tried next."""

from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

SamplerName = Literal["nsga2", "tpe", "random", "exhaustive"]
"""`nsga2`: evolution that keeps a spread of trade-offs. `tpe`: a model of which values do well. `random`: even draws.
`exhaustive`: every member once, in order."""

POPULATION = 12
STARTUP_TRIALS = 12


def sampler_for(name: SamplerName, seed: int, turn: int) -> "BaseSampler":
    """A sampler whose next draw depends on seed, turn and finished trials alone.

    Samplers of Optuna hold a random state that a killed process takes with it. One that is made anew for every trial
    makes a resumed search draw what the undisturbed one would have drawn.

    Args:
        name: Which; `exhaustive` draws nothing, so that any will do.
        seed: Of the search.
        turn: How many trials there were before.

    Returns:
        The sampler.
    """
    from optuna.samplers import NSGAIISampler, RandomSampler, TPESampler

    state = int(np.random.SeedSequence([seed, turn]).generate_state(1)[0])
    match name:
        case "nsga2":
            return NSGAIISampler(population_size=POPULATION, seed=state)
        case "tpe":
            return TPESampler(n_startup_trials=STARTUP_TRIALS, multivariate=True, seed=state)
        case "random" | "exhaustive":
            return RandomSampler(seed=state)
