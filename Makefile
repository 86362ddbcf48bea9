# Two commands do everything on a fresh machine with Rust:
#   make run    builds, starts both planes and prints a link that opens a call
#   make test   installs what the tests need and runs all of them
# Others: make build, make bench, make lint, make deps (what the build needs), make test-deps (and what the tests need),
# make test-rust, test-loom, test-miri, test-schema, test-browsers, test-strangers, test-fresh (one part of the tests), make
# fuzz (the property tests with cases nobody has seen, ROUNDS times).
#
# Programs of other names: make test PYTHON=python3.12 CHROMIUM=/opt/chrome/chrome FIREFOX=/opt/firefox/firefox

SHELL := /bin/bash
CARGO ?= cargo
# Options of `uprtc run`, for example: make run ARGS="--listen 0.0.0.0:8080 --media-ip 192.0.2.1"
ARGS ?=

.DEFAULT_GOAL := build
# How often `make fuzz` draws anew.
ROUNDS ?= 10

.PHONY: build run test bench fuzz lint deps test-deps test-rust test-loom test-miri test-schema test-browsers test-strangers test-fresh clean

export PYTHON CHROMIUM FIREFOX

build: deps
	$(CARGO) build --release

run: build
	$(CARGO) run --release --quiet -- run $(ARGS)

# One profile (dev, optimised as Cargo.toml says), so that each dependency is built once.
test: test-deps test-rust test-loom test-miri test-schema test-browsers test-strangers test-fresh

test-rust: deps
	@tools/install rust
	$(CARGO) test --workspace

# The ring and the sleeping flags of the link under every interleaving of their atomics (loom's own build of `proto`).
test-loom: deps
	RUSTFLAGS="--cfg loom" $(CARGO) test -p proto --lib --target-dir target/loom -- link::

# The same memory under Miri, where a nightly toolchain with Miri is installed; skipped with a sentence elsewhere.
test-miri: deps
	tools/miri

# REST against its own document: schemathesis asks the executable that `test-rust` built.
test-schema: test-deps
	$(CARGO) test --workspace --no-run --quiet
	bench/schema/run "$${CARGO_TARGET_DIR:-target}/debug/uprtc"

# Real Chromium peers against the executable that `test-rust` built (the same command, so nothing is built anew).
test-browsers: test-deps
	$(CARGO) test --workspace --no-run --quiet
	tools/npm-install bench/e2e
	cd bench/e2e && ../../tools/with-node node --test --test-concurrency=1 --test-reporter=spec

# Clients that are no browser, each with a Chromium, in a network namespace that is gone afterwards (docs/CLIENTS.md).
test-strangers: test-deps
	@tools/install strangers
	$(CARGO) test --workspace --no-run --quiet
	tools/npm-install bench/e2e
	tools/npm-install bench/strangers
	tools/python-venv bench/strangers/requirements.txt bench/strangers/.venv >/dev/null
	cd bench/strangers && ../../tools/with-node ../../tools/alone node --test --test-concurrency=1 --test-reporter=spec *.test.mjs

# `make build` and `make run` in a minimal Debian (or Ubuntu) where nothing is installed, and tools/install in such systems.
# It takes root; without, it is left out with a sentence, unless REQUIRE names it (REQUIRE=fresh).
test-fresh:
	tests/fresh/run

# The property tests with other cases than those of `make test`; what fails prints the seed that draws it again.
fuzz: deps
	tools/fuzz $(ROUNDS)

# What a packet costs, without a kernel and with one, and what a handshake costs. docs/MEASURING.md explains the numbers.
bench: deps
	@tools/install bench
	$(CARGO) bench -p bench --bench packet --bench kernel --bench relay --bench wake
	$(CARGO) bench -p controlplane --bench dtls

lint: deps
	@tools/install node
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --quiet
	tools/npm-install controlplane/web
	cd controlplane/web && ../../tools/with-node npx --no-install tsc --project .

deps:
	@CARGO="$(CARGO)" tools/install build

test-deps:
	@CARGO="$(CARGO)" tools/install build test

clean:
	$(CARGO) clean
