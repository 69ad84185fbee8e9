# make help shows what there is. Every target is one command or one script, so that nothing here has to be believed.

ROOMREEL = target/debug/roomreel

.DEFAULT_GOAL := help
.PHONY: help setup setup-test build demo up down test chaos fuzz fuzz-all fuzz-check simulate bench-ready bench-ingest setup-bench bench-compositor hls-check fmt lint docs scripts helm check

help: ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what building needs and is missing (apt)
	@scripts/setup

setup-test: ## the same, with the servers the tests run
	@scripts/setup test

build: setup ## build the binary: target/debug/roomreel
	cargo build --package roomreel

demo: build ## record a 30 s room of four into out/demo; no server is needed
	@$(ROOMREEL) demo --out out/demo

up: setup-test build ## start a local cluster: NATS, etcd, S3, 2 ingest, 2 coordinator, 2 compositor (logs in .run)
	@cargo build --quiet --package roomreel-tests --bin s3-server
	@scripts/cluster up

down: ## stop it
	@scripts/cluster down

test: setup-test build ## every test, the end-to-end ones against real servers that they start themselves
	cargo test --workspace

chaos: setup-test build ## every fault of docs/chaos.md on real servers and processes, the long ones too
	cargo test --package roomreel-tests --test chaos -- --include-ignored --test-threads 4

TARGET = batch
SECONDS = 60
fuzz: ## fuzz one TARGET of fuzz/fuzz_targets for SECONDS; needs a nightly toolchain and cargo-fuzz
	mkdir -p fuzz/corpus/$(TARGET) && cd fuzz && cargo +nightly fuzz run $(TARGET) corpus/$(TARGET) seeds/$(TARGET) -- -max_total_time=$(SECONDS) -timeout=10 -rss_limit_mb=2048

fuzz-all: ## fuzz every target for SECONDS each, JOBS at a time, and print what came of it
	JOBS=$(or $(JOBS),1) scripts/fuzz-all $(SECONDS)

fuzz-check: ## whether the fuzz targets still compile; needs no nightly toolchain
	cargo check --quiet --manifest-path fuzz/Cargo.toml --target-dir target

simulate: setup ## the cores in virtual time among faulty servers: make simulate SEEDS=20000, or SEED=7 for one and its story
	@SEEDS=$(if $(SEED)$(SEEDS),$(SEEDS),1000) SEED=$(SEED) cargo test --quiet --package roomreel-tests --test simulation seeds

bench-ready: setup-test ## how long after a room of 1, 5 and 20 min closes its composite can be read (7 min)
	cargo run --package roomreel-tests --bin bench-ready

bench-ingest: setup-test ## what ingest costs beside a raw async-nats consumer, memory a track, rooms in a stream (5 min, and the build)
	RUST_BACKTRACE=0 cargo run --profile bench-ingest --package roomreel-tests --bin bench-ingest

setup-bench: ## the same, with GStreamer, beside which the compositor is measured
	@scripts/setup bench

bench-compositor: setup-bench ## CPU per second of output for 1 to 25 participants, beside FFmpeg and GStreamer, and memory (35 min; ROUNDS=1: 15; ONLY=memory: 6)
	RUST_BACKTRACE=0 cargo run --package roomreel-tests --bin bench-compositor

hls-check: ## play the demo's HLS from start to end with hls.js; needs node, npm and chromium
	@scripts/hls-check out/demo

fmt: ## format all sources
	cargo fmt --all

lint: setup ## formatting and clippy, warnings denied
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

docs: setup ## the API documentation, warnings denied
	RUSTDOCFLAGS=-Dwarnings cargo doc --workspace --no-deps

scripts: ## shellcheck, where it is installed
	@if command -v shellcheck >/dev/null; then shellcheck $$(grep -lE "^#!.*sh$$" scripts/*) .ci/run; else echo "shellcheck is not installed: skipped"; fi

helm: ## lint and render the chart, where helm is installed
	@if command -v helm >/dev/null; then scripts/helm; else echo "helm is not installed: skipped"; fi

check: test lint docs fuzz-check scripts helm ## what CI runs
