# Everything a newcomer needs: `make demo` and `make test`. `make help` lists the targets.
PYTHON ?= $(shell command -v python3.12 >/dev/null 2>&1 && python3.12 -c '' 2>/dev/null && echo python3.12 || echo python3)
VENV   ?= .venv
BIN    := $(VENV)/bin
# LeRobot needs Python 3.12 or newer.
LEROBOT_PYTHON ?= $(PYTHON)
# Python of the GPU check, with packages that are there already; see imf_jax/benchmark/gpu_check.py.
GPU_PYTHON ?= $(BIN)/python
TEST_WORKERS ?= 2
TASK   ?= transfer
DEMO_EPISODES ?= 300
DEMO   ?= runs/demo-$(shell date +%Y%m%d-%H%M%S)
DEMO_PIXELS ?= runs/demo-pixels

.DEFAULT_GOAL := help
.PHONY: help install demo demo-pixels test test-long lint format docs parity cuda-check wheel-check lerobot-check serve-check view-check aloha-check gpu-check clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

install: $(VENV)/.installed ## make the environment in .venv and install the package

$(VENV)/.installed: pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than Python 3.11; name a newer one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps 'gym-aloha==0.1.3' # its models are all that is read
	@touch $@

demo: install ## collect, train, evaluate and show the result (two cores, no GPU: under 15 minutes); also TASK=insert
	$(BIN)/python scripts/collect.py --task $(TASK) --out demos/$(TASK) --episodes $(DEMO_EPISODES)
	$(BIN)/python scripts/train.py $(TASK)-state --data demos/$(TASK) --out $(DEMO)/train
	$(BIN)/python scripts/eval.py --expert --task $(TASK) --episodes 100 --out $(DEMO)/expert
	$(BIN)/python scripts/eval.py --checkpoint $(DEMO)/train --episodes 50 --out $(DEMO)/policy \
	  --reference $(DEMO)/expert --save-images --save-trajectory

demo-pixels: install ## the same from pictures of three cameras (two cores, no GPU: under an hour); call it again after an interruption
	$(BIN)/python scripts/collect.py --cameras r_vis top front --image-size 128 --out demos/transfer-128
	$(BIN)/python scripts/train.py efficientnet --out $(DEMO_PIXELS)/train \
	  $(if $(wildcard $(DEMO_PIXELS)/train/config.json),--resume)
	$(BIN)/python scripts/eval.py --checkpoint $(DEMO_PIXELS)/train --episodes 100 --out $(DEMO_PIXELS)/policy \
	  --save-images --save-trajectory --record-video 5 $(if $(wildcard $(DEMO_PIXELS)/policy/manifest.json),--resume)

test: lint ## lint, types and all tests but the long ones (about 16 minutes on two idle cores)
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadgroup --no-loadscope-reorder

test-long: install ## the tests that take long, which `make test` leaves out
	IMF_LONG_TESTS=1 $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadgroup --no-loadscope-reorder -m long

lint: install ## ruff (rules and format) and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.docs ## the documentation as a site in site/, which needs no network
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "open site/index.html; to search in it as well: $(BIN)/python -m http.server -d site"

$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@

parity: .venv-parity/.installed ## numerical proof of the weight converters against PyTorch and transformers
	.venv-parity/bin/python -m pytest tests/parity

.venv-parity/.installed: pyproject.toml constraints.txt constraints-parity.txt
	$(PYTHON) -m venv .venv-parity
	.venv-parity/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-parity.txt 'torch==2.13.0'
	.venv-parity/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -c constraints-parity.txt -e '.[parity]'
	.venv-parity/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-parity.txt --no-deps stable-worldmodel
	@touch $@

cuda-check: ## compile everything for an H100 without a GPU, within stated bounds (2 GB; skipped where it cannot be installed); KERNELS=DIR keeps kernels
	@$(MAKE) --no-print-directory .venv-cuda/.installed || { echo "skipped: the CUDA wheels could not be installed, see above"; exit 0; }; \
	.venv-cuda/bin/python -m imf_jax.benchmark.cuda.check $(if $(KERNELS),--kernels "$(KERNELS)")

.venv-cuda/.installed: pyproject.toml constraints.txt constraints-cuda.txt
	$(PYTHON) -m venv .venv-cuda
	.venv-cuda/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -c constraints-cuda.txt -e . \
	  jax-cuda13-plugin nvidia-cuda-nvcc nvidia-nvvm nvidia-nvjitlink
	@touch $@

wheel-check: install ## build a wheel, install it into an empty environment and use its commands there
	$(BIN)/python tests/wheel/check.py

lerobot-check: install ## LeRobot itself opens the datasets written here, and the other way round, and evaluates in our scenes (6 GB, Python 3.12; skipped where it cannot be installed)
	@$(MAKE) --no-print-directory .venv-lerobot/.installed || { \
	  echo "skipped: lerobot could not be installed, see above; name a Python 3.12: make lerobot-check LEROBOT_PYTHON=python3.12"; exit 0; }; \
	if [ -e .venv-lerobot/.installed ]; then \
	  datasets=$$(mktemp -d) && trap 'rm -rf "$$datasets"' EXIT && \
	  $(BIN)/python tests/lerobot/write_datasets.py "$$datasets" && \
	  HF_HUB_OFFLINE=1 LEROBOT_DATASETS="$$datasets" .venv-lerobot/bin/python -m pytest tests/lerobot \
	    -o addopts=-q -o filterwarnings=default --confcutdir=tests/lerobot -rs && \
	  HF_HUB_OFFLINE=1 .venv-lerobot/bin/python tests/lerobot/write_real_datasets.py "$$datasets" && \
	  LEROBOT_DATASETS="$$datasets" $(BIN)/python -m pytest tests/lerobot/read_real_datasets.py -o addopts=-q; \
	fi

.venv-lerobot/.installed: pyproject.toml constraints-lerobot.txt
	$(LEROBOT_PYTHON) -m venv .venv-lerobot
	.venv-lerobot/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-lerobot.txt 'lerobot[dataset]' pytest -e '.[gymnasium]'
	.venv-lerobot/bin/python -m pip install --quiet --disable-pip-version-check --no-deps 'gym-aloha==0.1.3'
	@touch $@

serve-check: install ## the real openpi-client drives our policy server (small; skipped where it cannot be installed)
	@$(MAKE) --no-print-directory .venv-openpi/.installed || { echo "skipped: openpi-client could not be installed, see above"; exit 0; }; \
	if [ -e .venv-openpi/.installed ]; then $(BIN)/python tests/openpi/check.py .venv-openpi/bin/python; fi

# The client imports typing_extensions without naming it.
.venv-openpi/.installed: constraints-openpi.txt
	$(PYTHON) -m venv .venv-openpi
	.venv-openpi/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-openpi.txt openpi-client typing_extensions pytest
	@touch $@

view-check: install ## Rerun reads the recordings of episodes back (170 MB to download; skipped where it cannot be installed)
	@$(MAKE) --no-print-directory .venv-rerun/.installed || { echo "skipped: rerun-sdk could not be installed, see above"; exit 0; }; \
	if [ -e .venv-rerun/.installed ]; then .venv-rerun/bin/python -m pytest tests/viewing -rs; fi

# Rerun alone; everything else is that of $(VENV).
.venv-rerun/.installed: constraints.txt $(VENV)/.installed
	$(BIN)/python -m venv .venv-rerun
	packages='import sysconfig; print(sysconfig.get_path("purelib"))' && \
	  echo "import site; site.addsitedir('$$($(BIN)/python -c "$$packages")')" > "$$(.venv-rerun/bin/python -c "$$packages")/shared.pth"
	.venv-rerun/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt rerun-sdk
	@touch $@

aloha-check: install ## the real gym-aloha moves and rewards alike (dm-control; skipped where it cannot be installed)
	@$(MAKE) --no-print-directory .venv-aloha/.installed || { echo "skipped: gym-aloha could not be installed, see above"; exit 0; }; \
	if [ -e .venv-aloha/.installed ]; then \
	  rollouts=$$(mktemp -d) && trap 'rm -rf "$$rollouts"' EXIT && \
	  $(BIN)/python tests/aloha/write_rollouts.py "$$rollouts" && \
	  ALOHA_ROLLOUTS="$$rollouts" .venv-aloha/bin/python -m pytest tests/aloha \
	    -o addopts=-q -o filterwarnings=default --confcutdir=tests/aloha -rs; \
	fi

.venv-aloha/.installed: constraints-aloha.txt
	$(PYTHON) -m venv .venv-aloha
	.venv-aloha/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-aloha.txt gym-aloha pytest
	@touch $@

gpu-check: ## benchmark and device tests on a CUDA GPU, installs nothing (another Python: GPU_PYTHON=python3; rehearsal: GPU_CHECK=--dry-run)
	@command -v "$(GPU_PYTHON)" >/dev/null || { \
	  echo "error: there is no $(GPU_PYTHON); run make install, or name a Python: make gpu-check GPU_PYTHON=python3" >&2; exit 2; }
	@$(GPU_PYTHON) -m imf_jax.benchmark.gpu_check $(GPU_CHECK)

clean: ## remove the environments and caches of this folder (not your demos and runs)
	rm -rf .venv .venv-parity .venv-cuda .venv-lerobot .venv-openpi .venv-rerun .venv-aloha .pytest_cache .mypy_cache .ruff_cache build site *.egg-info
