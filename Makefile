# The house. `make` lists what it can do; every target makes .venv first where it needs it.
# Linux and macOS, Python 3.11 or newer: make book PYTHON=python3.12
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
HTML := build/book/_build/html
OLDEST := build/oldest
HOUSE := check_weights dependencies gates house lint notebooks pages reference table1 vendor weight # tests of the book's house, not of the package
# Of the unit tests, what no version of a library decides: the words in which our own code refuses bad
# input, and real data, which the newest versions read.
OURS := bad_input chapter_checks real_data recipes
# Processes with a thread each: two cores are used better so than by torch's own threads, and three of them,
# because tests also wait; four make too much anew. The tests of a file stay in one process, so that what
# they share is made once.
PYTEST := -m pytest -n 3 --dist loadfile
TESTS := OMP_NUM_THREADS=1 $(BIN)/python $(PYTEST) tests
QUICK := -m "not slow and not nightly"

# torch and torchvision builds must match; `make lock` pins this pair.
TORCH_PAIR := torch==2.14.1 torchvision==0.29.1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help book test test-slow test-nightly test-oldest check mutants hooks lab bench lock lock-pages format picture diagram clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Written last, so an installation that was killed is taken up again. uv fetches and unpacks side by side,
# in less than half the time; it knows no pip.conf, so where it fails pip is asked.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "Python 3.11 or newer is needed, and '$(PYTHON)' is not that: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@rm -f $@
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$$(grep '^uv==' requirements.lock)"
	$(BIN)/uv pip install --python $(BIN)/python -r requirements.lock || \
	  $(BIN)/python -m pip install -r requirements.lock
	$(BIN)/python -m pip install --no-deps --no-build-isolation -e .
	@touch $@

# A cell may take half an hour, or another time: make book CELL_SECONDS=60
book: $(READY) ## run every chapter on a copy, then build the book from it
	$(BIN)/python -m book.execute
	$(BIN)/python -m book.live
	$(BIN)/python -m book.appendices
	rm -rf build/book
	cd build/src && "$(abspath $(BIN))/jupyter-book" build . --config book/_config.yml --toc book/_toc.yml \
	  --path-output ../book -W -n --keep-going
	@$(BIN)/python -m book.vendor
	@$(BIN)/python -m book.execute --report
	@echo "The book is at $(HTML)/index.html"

test: $(READY) ## the unit tests, in minutes: make test ARGS="-k labels"
	$(TESTS) $(QUICK) $(ARGS)

test-slow: $(READY) ## gates, kills, interruptions, and the pages that `make book` left
	$(TESTS) -m slow $(ARGS)

test-nightly: $(READY) ## the longest: jobs of a cluster, a killed worker, real data from scene to map
	$(TESTS) -m nightly $(ARGS)

# The wheel, in an environment of its own and away from the repository.
$(OLDEST)/.installed: $(READY) tests/oldest.lock $(shell find sartutorial -name '*.py')
	rm -rf build/wheel $(OLDEST)
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation -w build/wheel .
	$(BIN)/uv venv --quiet --python $(BIN)/python $(OLDEST)
	$(BIN)/uv pip install --quiet --python $(OLDEST) -c tests/oldest.lock build/wheel/*.whl
	$(BIN)/uv pip check --python $(OLDEST)
	cd $(OLDEST) && bin/python -I -c "import sartutorial.cli, sartutorial.learn.baselines, sartutorial.maps"
	$(BIN)/uv pip install --quiet --python $(OLDEST) -c tests/oldest.lock "$$(echo build/wheel/*.whl)[dev]"
	@touch $@

# Of a test with many cases the first: a library's other version breaks the call, not the case.
test-oldest: $(OLDEST)/.installed ## unit tests of what libraries do for us, on the oldest versions that the ranges allow
	cd $(OLDEST) && OMP_NUM_THREADS=1 bin/python $(PYTEST) ../../tests $(QUICK) --first-cases -c ../../pyproject.toml \
	  -o pythonpath= $(patsubst %,--ignore ../../tests/test_%.py,$(HOUSE) $(OURS)) $(ARGS)

check: $(READY) ## format, lint, types, imports, dependencies, notebooks and their twins, the book's promises
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/deptry --no-ansi .
	$(BIN)/python -m pip check
	$(BIN)/python -m book.check_notebooks
	$(BIN)/python -m book.lint

# Cosmic Ray, in an environment of its own, makes the faults; .venv runs the tests.
mutants: $(READY) ## plant sixty faults in the numeric code, by hand; up to an hour
	$(BIN)/uv run --no-project --isolated --python $(BIN)/python --with cosmic-ray==8.7.0 \
	  python tests/mutants.py $(ARGS)

hooks: $(READY) ## have git run `make check` before every commit
	$(BIN)/pre-commit install

format: $(READY) ## mend what `make check` can mend: code format, notebook twins, outputs
	$(BIN)/python -m book.check_notebooks --write
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .
	$(BIN)/python -m book.check_notebooks --write

lab: $(READY) ## open the chapters in JupyterLab
	$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/notebooks $(ARGS)

bench: $(READY) ## run the benchmarks: make bench, or make bench NAME=downsample
	@set -e; found=; for script in benchmarks/$(or $(NAME),[!_]*).py; do \
	  [ -f "$$script" ] || continue; found=1; echo "== $$script"; $(BIN)/python "$$script"; done; \
	if [ -z "$$found" ]; then \
	  if [ -n "$(NAME)" ]; then echo "There is no benchmarks/$(NAME).py" >&2; exit 1; fi; \
	  echo "There are no benchmarks yet: benchmarks/ holds no script."; fi

picture: $(READY) ## redraw the picture in README.md, from the simulated world
	$(BIN)/python -m book.picture

diagram: $(READY) ## redraw the module diagram in README.md
	$(BIN)/python -m book.diagram

# torch's CUDA parts come with torch on Linux; named in the lock they would break macOS and Windows.
# The second file holds the oldest versions that the ranges allow, for `make test-oldest`.
lock: ## make the locks anew, keeping pins where it can: make lock ARGS=--upgrade
	@mkdir -p build
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet uv
	printf '%s\n' $(TORCH_PAIR) > build/lock/constraints.txt
	cp requirements.lock build/lock/requirements.txt
	cd build/lock && bin/uv pip compile ../../pyproject.toml --extra book --extra dev --universal \
	  --python-version 3.11 -c constraints.txt --no-annotate --no-header --quiet $(ARGS) -o requirements.txt
	cd build/lock && bin/uv pip compile ../../pyproject.toml --extra dev --resolution lowest-direct \
	  --only-binary :all: --python-version 3.11 --no-annotate --no-header --quiet -o oldest.txt
	for name in requirements oldest; do { echo '# Made by `make lock`. Change pyproject.toml, not this file.'; \
	  grep -vE '^(nvidia|cuda|triton)' build/lock/$$name.txt; } > build/lock/$$name.lock; done
	mv build/lock/requirements.lock requirements.lock
	mv build/lock/oldest.lock tests/oldest.lock

# The lock names no host: whoever installs from it asks their own registry.
lock-pages: ## make book/npm/package-lock.json anew, after a change of package.json beside it
	rm -rf build/lock-pages && mkdir -p build/lock-pages
	cp book/npm/package.json build/lock-pages/
	cd build/lock-pages && "$${NPM:-npm}" install --package-lock-only --ignore-scripts --no-audit --no-fund \
	  --omit-lockfile-registry-resolved
	mv build/lock-pages/package-lock.json book/npm/

clean: ## remove build/ and caches (.venv and data/work stay)
	rm -rf build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find sartutorial tests book benchmarks notebooks -name __pycache__ -prune -exec rm -rf {} +
