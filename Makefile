# Everything sets itself up: `make train` and `make test` need nothing but Python 3.11 or newer.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=

.DEFAULT_GOAL := train

.PHONY: help train test test-processors coverage slow check docs site bench fuzz clean

help:  ## what there is to make
	@sed -n "s/^\([a-z-]*\):.*  ## /\1\t/p" $(firstword $(MAKEFILE_LIST)) | expand -t 18

train: $(VENV)/installed  ## fine-tune the starter model on data/train.json and evaluate it
	$(BIN)/python main.py --task train $(ARGS)

test: $(VENV)/installed-dev  ## the fast tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n auto --dist loadfile $(ARGS)

# apt install clang g++-aarch64-linux-gnu qemu-user
test-processors: $(VENV)/installed-dev  ## the engine's tests as on other processors; ARGS="x86-64-v3 clang" for some
	OMP_NUM_THREADS=1 $(BIN)/python scripts/test_processors.py --pytest="-n auto --dist loadfile" $(ARGS)

coverage:  ## the same, and which lines they ran
	$(MAKE) test ARGS="--cov --cov-report=term $(ARGS)"

slow: $(VENV)/installed-dev $(VENV)/llama/installed  ## the slow tests: real training, the README's commands, llama.cpp
	ALL_EXAMPLES=1 LLAMA_CPP_PYTHON=$(VENV)/llama/bin/python $(BIN)/python -m pytest -m "slow or generated" $(ARGS)

FUZZED := tests/test_fuzz_strangers.py tests/config/test_fuzz.py tests/data_processing/test_fuzz.py
fuzz: $(VENV)/installed-dev  ## look for input that is not answered in one sentence, ten minutes for each kind
	for test in $$(sed -n 's/^def \(test_[a-z_]*\).*/\1/p' $(FUZZED)); do \
		LORAKIT_FUZZ=600 $(BIN)/python -m pytest --capture=sys $(FUZZED) -k "$$test" || exit 1; \
	done

check: $(VENV)/installed-dev  ## style, types and the order of the rooms
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/installed  ## write docs/settings.md anew from the settings
	$(BIN)/python -m lorakit.config.reference > docs/settings.md

site: $(VENV)/installed-dev  ## build the documentation as pages, in site/
	$(BIN)/python -m mkdocs build --quiet

bench: $(VENV)/installed-dev  ## measure lorakit against plain Trainer + PEFT, TRL and LLaMA-Factory in one run
	$(BIN)/python benchmarks/bench.py $(ARGS)
	$(if $(ARGS),,$(BIN)/python benchmarks/data_job.py)

clean:
	rm -rf $(VENV)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than Python 3.11"; echo "hint: make train PYTHON=python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python scripts/install.py vision
	@touch $@

$(VENV)/llama/installed: | $(VENV)/bin/python  # builds llama.cpp, in 6 to 15 minutes
	$(PYTHON) -m venv $(VENV)/llama
	$(VENV)/llama/bin/python -m pip install --quiet --disable-pip-version-check llama-cpp-python==0.3.36
	@touch $@

$(VENV)/installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python scripts/install.py dev
	@touch $@ $(VENV)/installed
