# From nothing: `make train` and `make test` need git, make and Python >= 3.11 only.
# The newest python3.1x on the path that is 3.11 or later; override with `make PYTHON=...`.
PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.13; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
RUN ?= runs/quickstart
JOBS ?= auto
PARITY := tests/parity/requirements.txt
TORCH = $(shell grep '^torch==' $(PARITY))
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

# Linux with glibc: huge pages for large arrays, an eighth of a training step on CPU.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.DEFAULT_GOAL := help
.PHONY: help setup train test slow parity chaos soak zoo lint format clean

help:
	@echo "make setup   make $(VENV) with pinned versions and jaxseg in it, nothing else"
	@echo "make train   set up, train configs/quickstart.py on toy_street, evaluate, draw pictures"
	@echo "make test    set up, run the fast tests"
	@echo "make parity  set up, install torch for CPUs, test all networks against it"
	@echo "make slow    the tests that take too long for every day (5 minutes)"
	@echo "make chaos   kills, fills, flips and poisons real runs (15 minutes on 2 cores); make soak: 52 kills of one run"
	@echo "make zoo     every model under results/models evaluated again, its row compared; DATA=CamVid's folder"
	@echo "make lint    ruff: lint and format check        make format   let ruff mend it"
	@echo "make clean   remove the environment and $(RUN)"

# compat: by a path, not by a finder, which comes last: beside a clone of this name `import jaxseg` would find the clone.
# The stamp makes the second call instant; it is redone when a version or a dependency changes.
setup: $(VENV)/.installed
$(VENV)/.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python >= 3.11 found; install one or give make PYTHON=..."; exit 2; }
	@test -x $(BIN)/python || { echo "making $(VENV) with $(PYTHON)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing pinned versions into $(VENV) (a minute or two)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		--config-settings editable_mode=compat -e '.[test]'
	@touch $@

train: setup
	@$(BIN)/python -m jaxseg.train --config=configs/quickstart.py --workdir=$(RUN)
	@$(BIN)/python -m jaxseg.evaluate --workdir=$(RUN) --split=val
	@$(BIN)/python -m jaxseg.data samples --config=configs/quickstart.py --split=val --count=6 --output=$(RUN)/samples
	@$(BIN)/python -m jaxseg.predict --workdir=$(RUN) --input=$(RUN)/samples --output=$(RUN)/predictions
	@echo
	@echo "Where everything is:"
	@echo "  model                 $(RUN)/model           python: jaxseg.load('$(RUN)')"
	@echo "  overlays              $(RUN)/predictions/overlays, $(RUN)/pictures"
	@echo "  learning curves       $(RUN)/pictures/curves.png"
	@echo "  scores                $(RUN)/metrics_val.json"
	@echo "  TensorBoard           tensorboard --logdir $(RUN)/tensorboard"
	@echo "What to try next:"
	@echo "  $(BIN)/python -m jaxseg.evaluate --workdir=$(RUN) --split=test"
	@echo "  $(BIN)/python -m jaxseg.predict --workdir=$(RUN) --input=YOUR_PHOTOS --output=out"
	@echo "  $(BIN)/python -m jaxseg.bench --workdir=$(RUN)"
	@echo "  your own data set: README, 'Your own images'"

test: setup
	@$(BIN)/python -m pytest -n $(JOBS)

# Elsewhere than on PyPI there is a torch for CPUs only; where that place cannot be reached, PyPI's and what it needs.
parity: setup $(VENV)/.parity
	@$(BIN)/python -m pytest -n $(JOBS) tests/parity

$(VENV)/.parity: $(PARITY) | setup
	@echo "installing $(TORCH) and $(PARITY) into $(VENV) (a few minutes)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--extra-index-url $(TORCH_INDEX) $(TORCH) || \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(TORCH)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r $(PARITY)
	@touch $@

slow: setup
	@$(BIN)/python -m pytest -m slow -n $(JOBS)

# Seconds per try in results/chaos.json (2 CPU cores) times tries: 884 s. The slow tests are `make slow`'s.
chaos: setup
	@$(BIN)/python -m benchmarks.run chaos

soak: setup
	@$(BIN)/python -m benchmarks.run soak

# DATA: the published folder of CamVid, where it does not lie prepared already.
zoo: setup
	@$(BIN)/python -m benchmarks.zoo --data=$(DATA)

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: setup
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(RUN)
