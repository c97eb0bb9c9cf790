PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
OUT ?= out
DEMO = $(OUT)/demo
BENCH ?= $(OUT)/bench

.PHONY: setup build-dataset test test-all mutants lint docs bench constraints bench-large bench-scale bench-explore
setup: $(VENV)/.done
$(VENV)/.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --upgrade pip
	$(BIN)/pip install -q -c constraints.txt -e .
	touch $@
$(VENV)/.dev: $(VENV)/.done
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	touch $@

build-dataset: $(VENV)/.done
ifdef RAW
	$(BIN)/medglip-etl build --raw "$(RAW)" --out "$(OUT)" $(foreach s,$(SOURCE),--source $(s)) \
	  $(if $(MANIFESTS),--manifests "$(MANIFESTS)") $(if $(LABEL_MAPS),--label-maps "$(LABEL_MAPS)")
else
	$(BIN)/medglip-etl demo "$(DEMO)"
	$(BIN)/medglip-etl build --raw "$(DEMO)/raw" --manifests "$(DEMO)/manifests" \
	  --label-maps "$(DEMO)/label_maps" --out "$(OUT)" $(foreach s,$(SOURCE),--source $(s))
endif

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile -m "not slow"
bench-large: $(VENV)/.dev
	$(BIN)/python tests/bench/memory.py $(BENCH)/large --large
test-all: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile
bench-scale: $(VENV)/.dev
	$(BIN)/python tests/bench/scale.py make "$(OUT)/scale"
	$(BIN)/python tests/bench/scale.py run "$(OUT)/scale"
bench-explore: $(VENV)/.dev
	$(BIN)/python tests/bench/explore.py make "$(OUT)/explore"
	$(BIN)/python tests/bench/explore.py run "$(OUT)/explore"
lint: $(VENV)/.dev
	$(BIN)/ruff check etl stages glip tests
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python tests/house.py
	$(BIN)/medglip-etl labels lint
mutants: $(VENV)/.dev  # fails under a score of 85 %
	$(BIN)/python tests/bench/mutants.py --report docs/testing.md
bench: $(VENV)/.dev
	$(BIN)/python tests/bench/bench.py $(BENCH) --report docs/performance.md
docs: $(VENV)/.dev
	$(BIN)/python -m etl.docs
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs "$(OUT)/docs"
constraints:  # the newest versions that pyproject.toml allows, into constraints.txt
	$(PYTHON) -m venv --clear "$(OUT)/resolve"
	"$(OUT)/resolve/bin/pip" install -q -e '.[dev]'
	head -2 constraints.txt > "$(OUT)/constraints.txt"
	"$(OUT)/resolve/bin/pip" freeze --exclude-editable | sed 's/+cpu//' >> "$(OUT)/constraints.txt"
	mv "$(OUT)/constraints.txt" constraints.txt
