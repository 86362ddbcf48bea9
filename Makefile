# Two commands do everything on a fresh machine with Rust:
#   make run    builds, starts both planes and prints a link that opens a call
#   make test   installs what the tests need and runs all of them
# Others: make edges (several edges of one cluster with NATS, and a link to each: docs/EDGES.md), make build, make bench, make lint, make deps (installs what the build needs), make test-deps (and what the tests need),
# make test-rust, test-loom, test-miri, test-schema, test-browsers, test-weak, test-interop, test-fresh (one part of the tests), make
# attacks (tests/attacks in full), make fuzz (the property tests with new random cases, ROUNDS times, and each libFuzzer
# target for SECONDS), make sim SEEDS=1000 (more runs of the simulator), make weak (calls on bad networks, with figures), make data (messages, with figures), make recordings
# and make telephones (what recording and telephones cost), make torture (a million broken SIP messages).
#
# Other programs: make test PYTHON=python3.12 CHROMIUM=/opt/chrome/chrome FIREFOX=/opt/firefox/firefox

SHELL := /bin/bash
CARGO ?= cargo
# Options of `uprtc run`, for example: make run ARGS="--listen 0.0.0.0:8080 --media-ip 192.0.2.1"
ARGS ?=

# How many edges `make edges` starts.
EDGES ?= 3

.DEFAULT_GOAL := build
# How many rounds `make fuzz` runs, each with a new seed.
ROUNDS ?= 10
# How many seconds `make fuzz` runs each target of fuzz/ after that.
SECONDS ?= 60
# How many seeds `make sim` runs.
SEEDS ?= 500

.PHONY: build run edges test bench fuzz sim weak data recordings telephones torture lint deps test-deps test-rust test-loom test-miri test-schema test-browsers test-weak test-interop test-fresh attacks sbom clean

export PYTHON CHROMIUM FIREFOX

build: deps
	$(CARGO) build --release

run: build
	$(CARGO) run --release --quiet -- run $(ARGS)

# Several edges of one cluster on this machine. Python installs the nats-server, unless NATS_SERVER names one.
edges: build
	@tools/edges $(EDGES)

# All tests use one profile (dev, with the optimisation of Cargo.toml), so that each dependency is built once. Most tests wait for a
# network or a clock, so there are more of them at a time than cores.
test: test-deps test-rust test-loom test-miri test-schema test-browsers test-weak test-interop test-fresh

test-rust: deps
	@tools/install rust
	@tools/nats-server >/dev/null || true
	@tools/rclone >/dev/null || true
	RUST_TEST_THREADS=$${RUST_TEST_THREADS:-4} tools/twice --cargo $(CARGO) test --workspace

# The ring and the sleep flags of the link under every interleaving of their atomics (a separate build of `proto` with loom).
test-loom: deps
	RUSTFLAGS="--cfg loom" $(CARGO) test -p proto --lib --target-dir target/loom -- link::

# The memory of the link under Miri, if a nightly toolchain with Miri is installed; otherwise skipped with a message.
test-miri: deps
	tools/miri

# REST against its OpenAPI document: schemathesis tests the executable that `test-rust` built.
test-schema: test-deps
	$(CARGO) test --workspace --no-run --quiet
	tools/twice bench/schema/run "$${CARGO_TARGET_DIR:-target}/debug/uprtc"

# Real browsers against the executable that `test-rust` built (the same command, so nothing is built again).
test-browsers: test-deps
	$(CARGO) test --workspace --no-run --quiet
	tools/npm-install bench/e2e
	cd bench/e2e && for file in *.test.mjs; do \
	    ../../tools/twice ../../tools/with-node node --test --test-reporter=spec "$$file" || exit 1; done

# Two of the cases of `make weak` in a short form: the calls take place. They assert no figures. And a call where UDP is blocked.
test-weak: test-deps
	$(CARGO) test --workspace --no-run --quiet
	tools/npm-install bench/e2e
	cd bench/weak && SHORT=1 ../../tools/twice ../../tools/with-node ../../tools/alone --whole node --test-reporter=spec weak.test.mjs
	cd bench/weak && ../../tools/twice ../../tools/with-node ../../tools/alone --whole node --test-reporter=spec tcp.test.mjs

# Clients other than browsers, each with a Chromium, in a temporary network namespace (docs/CLIENTS.md).
test-interop: test-deps
	@tools/install interop
	$(CARGO) test --workspace --no-run --quiet
	tools/npm-install bench/e2e
	tools/npm-install bench/interop
	tools/python-venv bench/interop/requirements.txt bench/interop/.venv >/dev/null
	cd bench/interop && for file in *.test.mjs; do \
	    ../../tools/twice ../../tools/with-node ../../tools/alone node --test --test-reporter=spec "$$file" || exit 1; done

# `make build` and `make run` in a minimal Debian (or Ubuntu), and tools/install in such systems. It needs root.
# Tests that cannot run on a machine are skipped with a message, or fail if REQUIRE names what they need: `fresh` (this test),
# `uring`, `namespaces`, `nats`, `ffmpeg`, `s3` and `telephones` (tests in Rust, test-interop). CI sets REQUIRE=fresh,uring,namespaces,nats,ffmpeg,s3,telephones.
test-fresh:
	tests/fresh/run

# The attacks of tests/attacks in full, against the release executable; `make test` runs a short form. docs/SECURITY.md.
attacks: build
	ATTACKS=full UPRTC="$(CURDIR)/$${CARGO_TARGET_DIR:-target}/release/uprtc" \
	    $(CARGO) test -p uprtc --test attacks -- --test-threads=1 --nocapture

# The property tests with other cases than those of `make test`, then the targets of fuzz/ under libFuzzer if cargo-fuzz is installed. A
# failure prints the seed, or the file, that repeats it.
fuzz: deps
	tools/fuzz $(ROUNDS) $(SECONDS)

# Runs both planes in virtual time over bad networks, once for each of so many seeds (bench/sim). `make test` runs 50.
sim: deps
	$(CARGO) run -p sim --quiet -- --seeds $(SEEDS)

# Calls on bad networks: each case's figures next to the targets, and two browsers directly over the same link (docs/MEASURING.md).
# SCENARIO=drop,bursts runs some of them, with the executables of `test-rust`. It takes a quarter of an hour.
weak: test-deps
	$(CARGO) test --workspace --no-run --quiet
	tools/npm-install bench/e2e
	cd bench/weak && REQUIRE=namespaces SCENARIO="$(SCENARIO)" ../../tools/with-node ../../tools/alone --whole node --test-reporter=spec weak.test.mjs

# What data costs, and how late it comes: throughput, latency, a slow receiver, loss and a kill (docs/MEASURING.md). CASE=latency,slow runs some;
# native-throughput and native-latency are those of libdatachannel.
data: test-deps build
	$(CARGO) test --workspace --no-run --quiet
	tools/npm-install bench/e2e
	cd bench/weak && UPRTC="$(CURDIR)/$${CARGO_TARGET_DIR:-target}/release/uprtc" REQUIRE=namespaces CASE="$(CASE)" ../../tools/with-node ../../tools/alone --whole node --test-reporter=spec data.test.mjs
	tools/npm-install bench/interop
	cd bench/interop && DATA=full UPRTC="$(CURDIR)/$${CARGO_TARGET_DIR:-target}/release/uprtc" CASE="$(CASE)" ../../tools/with-node ../../tools/alone node --test --test-reporter=spec cost.test.mjs

# What recording 8 rooms of 4 costs, and what a recorder leaves that is killed, with the release executable (docs/MEASURING.md).
recordings: build
	RECORDINGS=full UPRTC="$(CURDIR)/$${CARGO_TARGET_DIR:-target}/release/uprtc" \
	    $(CARGO) test --workspace --test room recording_many -- --nocapture

# What a hundred telephones in 20 rooms cost, how long a sound takes through the gateway and what is lost, with the release executable
# (docs/MEASURING.md).
telephones: build
	TELEPHONES=full UPRTC="$(CURDIR)/$${CARGO_TARGET_DIR:-target}/release/uprtc" \
	    $(CARGO) test --workspace --test sip many_telephones -- --nocapture

# A million mutations of the torture messages of RFC 4475 against the telephones' SIP; `make test` has 10,000. MUTATIONS says how many,
# SEED which. A failure prints what repeats it.
torture: deps
	MUTATIONS=$${MUTATIONS:-1000000} MUTATIONS_SEED=$(or $(SEED),1) $(CARGO) test -p sip --lib mutations_of_them -- --nocapture

# The cost of a packet without and with the kernel, and the cost of a handshake. docs/MEASURING.md explains the numbers.
bench: deps
	@tools/install bench
	$(CARGO) bench -p bench --bench packet --bench kernel --bench relay --bench wake
	$(CARGO) bench -p controlplane --bench dtls --bench settle

lint: deps
	@CARGO="$(CARGO)" tools/install lint node
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --quiet
	tools/npm-install controlplane/web
	cd controlplane/web && ../../tools/with-node npx --no-install tsc --project .
	@tools/deny

# The software bill of materials of the executable (CycloneDX); Python 3.11 or later.
sbom:
	@tools/sbom

deps:
	@CARGO="$(CARGO)" tools/install build

test-deps:
	@CARGO="$(CARGO)" tools/install build test

clean:
	$(CARGO) clean
