# Everything happens in .venv inside the tree; the first use of any target makes it. PYTHON chooses the interpreter.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
BUILT  := $(VENV)/.built
FACES  := pytw._native $(subst /,.,$(basename $(shell find pytw -name '*.pyx')))

SOURCES := pyproject.toml Cargo.toml Cargo.lock native/Cargo.toml $(shell find native/src native/build pytw \
             -name '*.rs' -o -name '*.pyx' -o -name '*.pxd' -o -name backend.py) \
           $(shell find native/src -name '*.luau')

SECONDS ?= 1800

.PHONY: help setup build test test-asserts test-fast fuzz lint fmt types bench bench-table run docs ci
.DELETE_ON_ERROR:

help:            ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1|/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do printf '  make %-10s %s\n' "$$name" "$$text"; done

setup: $(BUILT)  ## make .venv with everything in it

build: $(BUILT)  ## compile what changed

# --no-build-isolation: the build's tools are in .venv, so that a second build only compiles what changed.
$(BUILT): $(SOURCES)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	@for tool in cargo cc c++; do command -v $$tool > /dev/null || \
	  { echo "$$tool was not found: install Rust with rustup, and gcc and g++ (Debian: build-essential)" >&2; exit 1; }; done
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "compiling (about two to five minutes the first time)"
	$(BIN)/pip install -q --disable-pip-version-check $$(sed -n 's/^requires = \[\(.*\)\]/\1/p' pyproject.toml | tr -d '",')
	$(BIN)/pip install -q --disable-pip-version-check --no-build-isolation -e '.[dev,bench,debug]'
	@touch $@

test: $(BUILT)   ## all tests
	cargo test --release --locked --lib -q
	$(BIN)/python -m pytest tests -q

test-asserts: $(BUILT) ## the engine's tests with Luau's own assertions, which .cargo/config.toml leaves out
	LUAU_CXXFLAGS= cargo build --release --locked -q -p pytw-native --target-dir target/asserts
	rm -rf target/asserts/tree && mkdir target/asserts/tree && cp -r pytw tests pyproject.toml target/asserts/tree
	cp target/asserts/release/lib_native.so target/asserts/tree/pytw/$$(basename pytw/_native.*.so)
	cd target/asserts/tree && PYTHONPATH=$$PWD $(CURDIR)/$(BIN)/python -m pytest tests/native -q

test-fast: $(BUILT) ## tests that take less than five seconds each
	$(BIN)/python -m pytest tests -q -m 'not slow'

fuzz: $(BUILT)   ## attack the engine with random input for SECONDS (1800); findings go to tests/fuzz/findings
	$(BIN)/python -m tests.fuzz $(SECONDS)

lint: $(BUILT) types ## every check that runs nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache --no-logo
	cargo fmt --check
	cargo clippy --locked --release --all-targets -- -D warnings

types: $(BUILT)  ## mypy, and the .pyi faces against the compiled modules
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest --allowlist tests/stubtest.allow $(FACES)

fmt: $(BUILT)    ## format Python and Rust
	$(BIN)/ruff check --fix-only -q .
	$(BIN)/ruff format .
	cargo fmt

bench: $(BUILT)  ## all benches, with their budgets
	$(BIN)/python -m pytest bench --benchmark-only -q

bench-table: bench ## the same, and bench/README.md from it
	$(BIN)/python bench/stamp.py > bench/README.md

run: $(BUILT)    ## serve, with nothing configured
	@exec $(BIN)/tw serve

docs: $(BUILT)   ## docs/configuration.md and docs/luau, from the types they describe
	$(BIN)/python -m pytw.config > docs/configuration.md
	$(BIN)/python docs/luau_api.py

# Tests last: their summary is the end of the output.
ci: lint         ## what has to pass before a change lands
	$(MAKE) --no-print-directory test
