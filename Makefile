# Every habit of the project is one target here; CI and pre-commit only call them.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
DEMO ?= demo

export PATH := $(abspath $(BIN)):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help env demo default-model test test-infer lint check bench lock image-lint image-steps clean

help: ## show the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1: /p' $(MAKEFILE_LIST)

env: $(READY) ## make the environment for development

$(READY): requirements/dev.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "O'"'"'TRAIN needs Python 3.11 to 3.13: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --require-hashes -r requirements/dev.txt
	$(BIN)/pip install --quiet --no-deps --no-build-isolation -e .
	$(BIN)/otrain-model verify
	touch $@

demo: $(READY) ## mock cutouts, datacube, training, ONNX model, scores, a plot and a summary, in ./demo
	rm -rf $(DEMO)
	otrain-mock --output $(DEMO)/cutouts --n-true 1000 --n-false 1000 --seed 1
	otrain-mock --output $(DEMO)/tonight --n-true 100 --n-false 400 --seed 2
	otrain-convert --cutouts $(DEMO)/cutouts --path $(DEMO) --cube mock
	otrain-train --cube $(DEMO)/mock.npz --model-path $(DEMO) --model-name demo > /dev/null
	otrain-export $(DEMO)/CNN_training/demo.keras --card $(DEMO)/CNN_training/demo.onnx --output $(DEMO)/demo-fp16.onnx --precision fp16
	otrain-infer --cutouts $(DEMO)/tonight/true $(DEMO)/tonight/false --model $(DEMO)/CNN_training/demo.onnx --output $(DEMO)/infer_results.dat
	@echo; cat $(DEMO)/CNN_training/demo/summary.txt
	@echo "plot: $(DEMO)/CNN_training/demo/demo_scores.png"
	@echo "report: $(DEMO)/CNN_training/demo/report.html"
	@echo "scores of tonight's cutouts: $(DEMO)/infer_results.dat, the first of them:"
	@head -4 $(DEMO)/infer_results.dat

default-model: $(READY) ## train the embedded demonstration model anew
	rm -rf build/model
	otrain-mock --output build/model/cutouts --n-true 5000 --n-false 5000 --planes DIFF --seed 2026
	otrain-convert --cutouts build/model/cutouts --path build/model --cube mock
	otrain-train --cube build/model/mock.npz --model-path build/model --model-name mock --seed 1 --note "A demonstration, trained on mock cutouts (otrain-mock) and no real ones: it shows how the commands work and is not good for the candidates of any survey. Train your own with otrain-train."
	cp build/model/CNN_training/mock.onnx otrain_infer/models/default.onnx

test: $(READY) ## all tests
	$(BIN)/python -m pytest -q --numprocesses auto --dist loadfile

test-infer: $(READY) ## the tests of inference, which need no TensorFlow
	$(BIN)/python -m pytest -q tests/infer

lint: $(READY) ## style, types, rules of direction
	ruff check .
	ruff format --check .
	mypy
	lint-imports

check: lint image-lint test ## what CI runs

bench: $(READY) ## every benchmark on one page; accuracy as measured before; larger data from the folder OTRAIN_DATA
	@$(BIN)/python -m compileall -q -j 0 $(VENV)/lib otrain_infer otrain_train > /dev/null 2>&1 || true # tests of others that are no Python
	@mkdir -p build
	@for run in reading.py scoring.py alerts.py startup.py converting.py many_files.py gpu.py "memory.py --gigabytes 1" \
		"networks.py --known --results benchmarks/results/networks.jsonl" \
		"accuracy.py --known --results benchmarks/results/accuracy.jsonl --recipes lite mini otrain original-10 original-30"; do \
		echo; echo "== $$run"; $(BIN)/python benchmarks/$$run 2> build/bench.log || { cat build/bench.log >&2; exit 1; }; \
	done

image-lint: $(READY) ## lint the Dockerfiles
	hadolint Dockerfile.infer Dockerfile.train

image-steps: ## run the steps of Dockerfile.infer in a clean environment, without a container engine
	$(PYTHON) .ci/image_steps.py Dockerfile.infer

PIN := uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate
lock: $(READY) ## pin every version in requirements/ anew
	$(PIN) requirements/build.in -o requirements/build.txt
	$(PIN) pyproject.toml --extra cpu --extra avro --extra kafka -o requirements/infer-cpu.txt
	$(PIN) pyproject.toml --extra gpu --extra avro --extra kafka -o requirements/infer-gpu.txt
	$(PIN) pyproject.toml requirements/cuda.in --extra cpu --extra train --extra tune --extra tensorboard -o requirements/train.txt
	$(PIN) pyproject.toml --extra cpu --extra train --extra tune --extra tensorboard --extra mlflow --extra wandb --extra avro --extra kafka --extra spark --extra parquet --group dev -o requirements/dev.txt

clean: ## remove what the targets made
	rm -rf $(VENV) $(DEMO) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
