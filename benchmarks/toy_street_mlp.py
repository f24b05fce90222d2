"""How far colour and place alone get on toy_street: a 64-64 MLP on (R, G, B, x, y), no neighbours.

The control of `benchmarks/toy_street.py`, which runs it.
"""

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxseg.data import toy_street
from jaxseg.objectives.metrics import confusion_matrix, scores_from_confusion
from jaxseg.types import IGNORE_LABEL

HIDDEN = 64
STEPS = 3000
BATCH_PX = 8192
LEARNING_RATE = 5e-3
TRAIN_PX_PER_IMAGE = 4096
"""Drawn once per training image; 2.9 million in all."""

CLASSES = len(toy_street.CLASS_NAMES)


def features(image: np.ndarray) -> np.ndarray:
    """float32 [H * W, 5] in [-1, 1]: red, green, blue, column, row."""
    height, width = image.shape[:2]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    place = np.stack([x / (width - 1), y / (height - 1)], axis=-1)
    return np.concatenate([image / np.float32(255), place], axis=-1).reshape(-1, 5) * 2 - 1


def _pixels(key: tuple[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """Some labelled pixels of a training image."""
    image, label = toy_street.sample(*key)
    chosen = np.random.default_rng(key[1]).integers(0, label.size, TRAIN_PX_PER_IMAGE)
    x, y = features(image)[chosen], label.reshape(-1)[chosen]
    return x[y != IGNORE_LABEL], y[y != IGNORE_LABEL]


def _sample(key: tuple[str, int]) -> tuple[np.ndarray, np.ndarray]:
    return toy_street.sample(*key)


def initial(key: jax.Array) -> list[tuple[jax.Array, jax.Array]]:
    """He's initialisation of 5-64-64-11."""
    sizes = (5, HIDDEN, HIDDEN, CLASSES)
    keys = jax.random.split(key, len(sizes) - 1)
    return [
        (jax.random.normal(k, (a, b)) * (2 / a) ** 0.5, jnp.zeros(b))
        for k, a, b in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]


def logits(params: list[tuple[jax.Array, jax.Array]], x: jax.Array) -> jax.Array:
    """[N, 5] to [N, 11]."""
    for w, b in params[:-1]:
        x = jax.nn.relu(x @ w + b[None])
    w, b = params[-1]
    return x @ w + b[None]


def fit(
    x: np.ndarray, y: np.ndarray, seed: int, class_weights: tuple[float, ...]
) -> tuple[Any, float]:
    """Parameters and the mean loss of the last hundred steps."""
    table = jnp.asarray(class_weights or (1.0,) * CLASSES)
    schedule = optax.cosine_decay_schedule(LEARNING_RATE, STEPS)
    optimizer = optax.adam(schedule)
    params = initial(jax.random.key(seed))

    @jax.jit
    def step(params, state, x, y):
        def loss(p):
            each = optax.softmax_cross_entropy_with_integer_labels(logits(p, x), y)
            return jnp.sum(each * table[y]) / jnp.sum(table[y])

        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, value

    state, rng, losses = optimizer.init(params), np.random.default_rng(seed), []
    for number in range(STEPS):
        chosen = rng.integers(0, len(y), BATCH_PX)
        params, state, value = step(params, state, x[chosen], y[chosen].astype(np.int32))
        losses.append(value)
        if number % 500 == 499:
            print(f"step {number + 1}  loss {float(np.mean(losses[-100:])):.3f}", flush=True)
    return params, float(np.mean(losses[-100:]))


def row(seed: int, class_weights: tuple[float, ...] = ()) -> dict[str, Any]:
    """Trains on the train split, scores on all of the test split.

    Args:
        seed: of weights and batches.
        class_weights: one per class, or empty for all ones.
    """
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        train = [("train", i) for i in range(toy_street.SPLITS["train"])]
        pairs = list(pool.map(_pixels, train, chunksize=16))
        x, y = (np.concatenate(part) for part in zip(*pairs, strict=True))
        params, loss = fit(x, y, seed, class_weights)
        answer = jax.jit(lambda x: logits(params, x).argmax(-1))
        confusion = np.zeros((CLASSES, CLASSES), np.int64)
        test = [("test", i) for i in range(toy_street.SPLITS["test"])]
        for image, label in pool.map(_sample, test, chunksize=16):
            truth, said = label.reshape(-1), np.asarray(answer(features(image)))
            confusion += confusion_matrix(truth, said, CLASSES)
    scores = scores_from_confusion(confusion)
    return {
        "test_miou": scores["miou"],
        "test_aacc": scores["aacc"],
        "per_class_iou": dict(zip(toy_street.CLASS_NAMES, scores["iou"], strict=True)),
        "train_loss": round(loss, 4),
        "steps": STEPS,
        "batch_px": BATCH_PX,
    }
