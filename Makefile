# Two commands do everything on a fresh machine with Rust:
#   make run    builds, starts both planes and prints a link that opens a call
#   make test   installs what the tests need and runs all of them
# Others: make build, make bench, make lint, make deps (what the build needs), make test-deps (and what the tests need).

SHELL := /bin/bash
CARGO ?= cargo
# Options of `uprtc run`, for example: make run ARGS="--listen 0.0.0.0:8080 --media-ip 192.0.2.1"
ARGS ?=

.DEFAULT_GOAL := build
.PHONY: build run test bench lint deps test-deps test-rust test-loom test-miri test-browsers clean

build: deps
	$(CARGO) build --release

run: build
	$(CARGO) run --release --quiet -- run $(ARGS)

# One profile (dev, optimised as Cargo.toml says), so that each dependency is built once.
test: test-deps test-rust test-loom test-miri test-browsers

test-rust: deps
	$(CARGO) test --workspace

# The ring and the sleeping flags of the link under every interleaving of their atomics (loom's own build of `proto`).
test-loom: deps
	RUSTFLAGS="--cfg loom" $(CARGO) test -p proto --lib --target-dir target/loom -- link::

# The same memory under Miri, where a nightly toolchain with Miri is installed; skipped with a sentence elsewhere.
test-miri: deps
	tools/miri

# Real Chromium peers against the executable that `test-rust` built (the same command, so nothing is built anew).
test-browsers: test-deps
	$(CARGO) test --workspace --no-run --quiet
	tools/npm-install bench/e2e
	cd bench/e2e && node --test --test-concurrency=1 --test-reporter=spec

# What a packet costs, without a kernel and with one, and what a handshake costs. docs/MEASURING.md explains the numbers.
bench: deps
	$(CARGO) bench -p bench --bench packet --bench kernel --bench relay
	$(CARGO) bench -p controlplane --bench dtls

lint: test-deps
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --quiet
	tools/npm-install controlplane/web
	cd controlplane/web && npx --no-install tsc --project .

deps:
	@tools/install build

test-deps:
	@tools/install build test

clean:
	$(CARGO) clean
