# `make` says what there is. Everything lands in .venv, target and benches/results; `make clean` removes all three.
# Overridable: PYTHON=python3.13 VENV=.venv HOST=127.0.0.1 PORT=8000 APP=hello:app FUZZ_SECONDS=30 SEEDS=20000 SEED=0

PYTHON ?= python3
VENV   ?= .venv
HOST   ?= 127.0.0.1
PORT   ?= 8000
APP    ?= hello:app
FUZZ_SECONDS ?= 30
# Of `sim`: how many seeds, and the first.
SEEDS  ?= 20000
SEED   ?= 0
# Further arguments of `run` and of the Python benchmarks, e.g. ARGS="--only fasterapi --rounds 1".
ARGS   ?=

BIN := $(VENV)/bin
pip := $(BIN)/python -m pip install --quiet --disable-pip-version-check
export PYTHON

rust_sources   := $(shell find src -name '*.rs') Cargo.toml Cargo.lock
worker_sources := $(shell find pyworker -name '*.rs' -o -name '*.py' -o -name '*.pyi' -o -name '*.toml' -o -name py.typed)
# What the extension module links of the root crate.
ipc_sources    := src/lib.rs src/limits.rs src/span.rs $(shell find src/ipc -name '*.rs') Cargo.toml Cargo.lock
fuzz_targets   := $(basename $(notdir $(wildcard fuzz/fuzz_targets/*.rs)))
bench_targets  := $(filter-out lane_rtt,$(basename $(notdir $(wildcard benches/*.rs))))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run build tools frameworks test test-rust test-executor test-loom test-native test-python lint fuzz sim miri asan bench bench-lane bench-peers bench-fairness bench-memory bench-websocket bench-loops bench-http bench-idle h3load clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# --- build -----------------------------------------------------------------------------------------------------------

run: build ## set everything up and serve examples/hello.py on http://127.0.0.1:8000
	@echo 'try:  curl http://$(HOST):$(PORT)/user/42      stop: Ctrl-C'
	@exec $(BIN)/fasterapi run $(APP) --host $(HOST) --port $(PORT) --app-dir examples $(ARGS)

build: $(BIN)/fasterapi $(VENV)/.package ## release build: .venv/bin/fasterapi and the Python package, in .venv

$(VENV)/.made: ci/requirements-build.txt ci/system-packages
	@ci/system-packages build
	@command -v cargo >/dev/null || { echo 'error: no cargo; see https://rustup.rs' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(pip) -r ci/requirements-build.txt
	@touch $@

# Renamed into place: a running server keeps its file, a started one never sees half of one.
$(BIN)/fasterapi: $(rust_sources) | $(VENV)/.made
	cargo build --release --locked --target-dir target --bin fasterapi
	cp target/release/fasterapi $@.new
	mv -f $@.new $@
	@touch $@

$(VENV)/.package: $(worker_sources) $(ipc_sources) $(VENV)/.made
	rm -rf target/wheels
	$(BIN)/maturin build --quiet --release --locked --manifest-path pyworker/Cargo.toml --out target/wheels --interpreter $(BIN)/python
	$(pip) target/wheels/*.whl
	$(pip) --force-reinstall --no-deps target/wheels/*.whl
	@touch $@

tools: $(VENV)/.tools

$(VENV)/.tools: ci/requirements-test.txt pyworker/pyproject.toml $(VENV)/.package
	@ci/system-packages test
	$(pip) -r ci/requirements-test.txt "$$(ls target/wheels/*.whl)[test]"
	@touch $@

frameworks: target/frameworks/.package

# What they depend on is nobody else's business: an environment of their own, with our package in it.
target/frameworks/.made: ci/requirements-frameworks.txt
	$(PYTHON) -m venv target/frameworks
	target/frameworks/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

target/frameworks/.package: target/frameworks/.made $(VENV)/.package
	target/frameworks/bin/python -m pip install --quiet --disable-pip-version-check target/wheels/*.whl
	target/frameworks/bin/python -m pip install --quiet --disable-pip-version-check --force-reinstall --no-deps target/wheels/*.whl
	@touch $@

# --- checks ----------------------------------------------------------------------------------------------------------

test: test-rust test-executor test-loom test-native test-python ## every test: Rust (fuzz corpora included), loom, Python, end to end

test-rust: | $(VENV)/.made
	@if cargo nextest --version >/dev/null 2>&1; then set -x; cargo nextest run --locked; \
	else set -x; cargo test --locked --lib --bins --tests; fi
	cargo test --quiet --locked --doc
	cargo check --locked --no-default-features
	cargo check --locked --no-default-features --features executor

# Rust calls Python: the interpreter is the one of .venv, with the package in it.
test-executor: build
	FASTERAPI_PYTHON=$(abspath $(BIN)/python3) cargo test --locked --test executor

# A target directory of its own: the cfg would rebuild every dependency of the others.
test-loom: | $(VENV)/.made
	RUSTFLAGS='--cfg loom' CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
	cargo test --locked --lib --no-default-features --release --target-dir target/loom loom_

# The native half against a real loop, with the edge's end of the lanes in the same process (the feature `testing`):
# a package beside the installed one, with overflow checks and debug assertions.
staged := target/testing-package

test-native: tools
	cargo build --locked -p pyworker --features testing
	rm -rf $(staged) && mkdir -p $(staged) && cp -r pyworker/python/fasterapi $(staged)/
	cp target/debug/lib_native.so $(staged)/fasterapi/_native.abi3.so
	cd pyworker && PYTHONPATH=$(abspath $(staged)) $(abspath $(BIN))/python -m pytest -q -o pythonpath=tests tests/test_native*.py

# The installed package is what is tested, not the source tree, which has no native half.
test-python: build tools frameworks h3load
	$(if $(wildcard pyworker/tests),cd pyworker && $(abspath $(BIN))/python -m pytest -q -o pythonpath=tests --ignore-glob "*/test_native*.py",@echo 'skipped: no pyworker/tests')
	cd benches && $(abspath $(BIN))/python -m pytest -q -p no:cacheprovider tests
	$(if $(wildcard ci/e2e),$(BIN)/python -m pytest -q ci/e2e,@echo 'skipped: no ci/e2e')

lint: build tools ## formats, clippy, ruff, mypy: no warning is let through
	cargo fmt --all --check
	$(if $(fuzz_targets),cargo fmt --manifest-path fuzz/Cargo.toml --check)
	cargo fmt --manifest-path benches/h3load/Cargo.toml --check
	cargo clippy --locked --all-targets -- -D warnings
	cargo clippy --locked --test executor -- -D warnings
	cargo clippy --release --locked --manifest-path benches/h3load/Cargo.toml --target-dir target -- -D warnings
	cargo clippy --locked -p pyworker --features testing -- -D warnings
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	cd pyworker && $(abspath $(BIN))/mypy
	cd ci/e2e && $(abspath $(BIN))/mypy
	cd benches && $(abspath $(BIN))/mypy --strict --exclude peers/apps fairness.py http_versions idle.py loops.py memory.py websocket.py peers tests

fuzz: ## each fuzz target for FUZZ_SECONDS (needs a nightly toolchain)
	@cargo +nightly --version >/dev/null 2>&1 || { echo 'error: fuzzing needs a nightly: rustup toolchain install nightly' >&2; exit 1; }
	@PATH="$(CURDIR)/target/tools/bin:$$PATH"; export PATH; set -e; \
	cargo fuzz --version >/dev/null 2>&1 || cargo install --quiet --locked --root target/tools cargo-fuzz; \
	for target in $(fuzz_targets); do \
	    echo "== $$target, $(FUZZ_SECONDS) s"; \
	    found="fuzz/target/found/$$target"; mkdir -p "$$found" "fuzz/corpus/$$target"; \
	    cargo +nightly fuzz run "$$target" "$$found" "fuzz/corpus/$$target" -- -max_total_time=$(FUZZ_SECONDS) -print_final_stats=1; \
	done

# A target directory of its own, as for loom: with the assertions, and without the link-time optimisation that only a release needs.
sim: | $(VENV)/.made ## SEEDS runs of the simulated shard from SEED on; a failure prints its seed
	SIM_SEED=$(SEED) SIM_SEEDS=$(SEEDS) CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
	CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS=true CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS=true \
	cargo test --locked --release --lib --target-dir target/sim sim::tests::seeds_of_the_environment_hold

miri: ## ipc under Miri (needs a nightly with the components miri and rust-src)
	MIRIFLAGS='-Zmiri-disable-isolation' cargo +nightly miri test --locked --lib --no-default-features --target-dir target/miri

asan: ## ipc under AddressSanitizer (needs a nightly toolchain)
	RUSTFLAGS='-Zsanitizer=address' cargo +nightly test --locked --lib --no-default-features \
	    --target "$$(rustc -vV | sed -n 's/^host: //p')" --target-dir target/asan ipc

# --- measurements ----------------------------------------------------------------------------------------------------

bench: ## criterion micro-benchmarks
	$(if $(bench_targets),cargo bench --locked $(bench_targets:%=--bench %),@echo 'none yet: benches/*.rs')

bench-lane: ## round trips between two processes: lane (spinning, sleeping), socketpair, pipes
	cargo bench --locked --bench lane_rtt

bench-peers: build target/peers/.package ## side by side with other Python servers → benches/results/peers.{md,json,svg}
	@ci/system-packages bench
	cd benches && ../target/peers/bin/python -m peers --fasterapi '$(abspath $(BIN))/fasterapi' $(ARGS)

bench-fairness: build target/peers/.package ## 1 ms handlers among 500 ms ones on 4 workers, beside gunicorn and Granian → benches/results/fairness.{md,json}
	cd benches && ../target/peers/bin/python -m fairness --fasterapi '$(abspath $(BIN))/fasterapi' $(ARGS)

bench-memory: build target/peers/.package ## 50 slow downloads and 50 slow uploads of 100 MB; fails over 150 MiB → benches/results/memory.{md,json}
	cd benches && ../target/peers/bin/python -m memory --fasterapi '$(abspath $(BIN))/fasterapi' $(ARGS)

bench-websocket: build target/peers/.package ## echo of small messages, beside uvicorn and Granian → benches/results/websocket.{md,json}
	cd benches && ../target/peers/bin/python -m websocket --fasterapi '$(abspath $(BIN))/fasterapi' $(ARGS)

bench-loops: build target/peers/.package ## asyncio's loop and uvloop under every kind of application → benches/results/loops.{md,json}
	@ci/system-packages bench
	cd benches && ../target/peers/bin/python -m loops --fasterapi '$(abspath $(BIN))/fasterapi' $(ARGS)

h3load: target/release/h3load

# A workspace of its own, in the same target directory.
target/release/h3load: $(wildcard benches/h3load/src/*.rs) benches/h3load/Cargo.toml benches/h3load/Cargo.lock | $(VENV)/.made
	cargo build --release --locked --manifest-path benches/h3load/Cargo.toml --target-dir target
	@touch $@

# Without it the rows of nginx over HTTP/3 are left out; the next run tries again.
target/peers/nginx-quic/nginx: ci/nginx-quic
	@ci/nginx-quic $(@D) || true

bench-http: build target/peers/.package h3load target/peers/nginx-quic/nginx ## HTTP/2, HTTP/3, TLS handshakes and 1 GB transfers beside nginx, h2o, Caddy, Hypercorn, Granian → benches/results/http_versions.{md,json}
	@ci/system-packages bench
	cd benches && ../target/peers/bin/python -m http_versions --fasterapi '$(abspath $(BIN))/fasterapi' $(ARGS)

bench-idle: build ## memory per idle keep-alive connection; fails over 2 KiB
	$(BIN)/python benches/idle.py --fasterapi $(BIN)/fasterapi $(ARGS)

target/peers/.made: benches/peers/requirements.txt
	@ci/system-packages bench
	$(PYTHON) -m venv target/peers
	target/peers/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

# Ours beside the others: one interpreter and one set of packages for everybody.
target/peers/.package: target/peers/.made $(VENV)/.package
	target/peers/bin/python -m pip install --quiet --disable-pip-version-check target/wheels/*.whl
	target/peers/bin/python -m pip install --quiet --disable-pip-version-check --force-reinstall --no-deps target/wheels/*.whl
	@touch $@

clean: ## remove everything that was built
	rm -rf target fuzz/target benches/results $(VENV)
