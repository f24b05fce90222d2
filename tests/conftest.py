"""Strict from the start: two fake devices, rank promotion raises, warnings are errors (pyproject.toml)."""

import os

# One thread per test process would change nothing but speed; two processes on two cores fight less so.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True, scope="session")
def private_caches(tmp_path_factory: pytest.TempPathFactory):
    """Prepared data of tests never mixes with the user's; programs compile once for all test processes."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    os.environ["JAXSEG_CACHE"] = str(shared / "cache")
    jax.config.update("jax_compilation_cache_dir", str(shared / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    yield


@pytest.fixture(scope="module")
def cheap():
    """Half the time to compile, also where no options can be given."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
