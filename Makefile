# Every target that needs PostgreSQL or a browser installs it first where it is
# missing: with apt as root or with sudo, else with brew.

.DEFAULT_GOAL := help
GO      ?= go
TOOL    := $(GO) tool -modfile=tools/go.mod
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION) -X main.commit=$(shell git rev-parse HEAD 2>/dev/null)

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: postgresql curl build ## Install PostgreSQL where it is missing, build, and run everything on this machine
	exec bin/keyledger dev

.PHONY: mock-upstream
mock-upstream: build ## Stand in for the providers on port 8090, to try the relay without an account
	exec bin/keyledger bench upstream

.PHONY: build
build: ## Build bin/keyledger
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/keyledger ./cmd/keyledger

.PHONY: test
test: compiler curl postgresql redis browser proxies node python web-tools ## Run all tests with the race detector, on a PostgreSQL of their own
	$(GO) test -race -timeout 20m -skip '^TestNeighbours$$' ./...
	KEYLEDGER_TEST_ALONE=1 $(GO) test -run '^TestNeighbours$$' ./cmd/keyledger

# A dump of a cluster is Citus's own matter; and a test of plain PostgreSQL is not one of a cluster.
.PHONY: test-citus
test-citus: postgresql redis browser ## Run what reads and writes rollups and archive on a Citus cluster, and kill its servers: CITUS_URL=postgres://..., SOAK=10m
	@[ -n "$(CITUS_URL)" ] || { echo "CITUS_URL is not set: the URL of a database on the coordinator of a Citus cluster, as a superuser (docs/scale-out.md)" >&2; exit 2; }
	KEYLEDGER_TEST_CITUS='$(CITUS_URL)' $(GO) test -tags citus -count 1 -p 1 -timeout 1h -skip 'Dump|PlainPostgreSQL' \
		./internal/scaleout ./internal/rollup ./internal/report ./internal/upkeep ./internal/usage ./internal/importer ./internal/api
	KEYLEDGER_TEST_CITUS='$(CITUS_URL)' $(GO) test -tags citus -count 1 -run 'TestTwentyQuestions$$|TestViewsAgree$$|TestReaderReadsViewsOnly$$' ./migrations
	KEYLEDGER_TEST_CITUS='$(CITUS_URL)' KEYLEDGER_TEST_SOAK=$(SOAK) $(GO) test -tags citus -count 1 -run 'TestCrashCitus$$' -v -timeout 3h ./cmd/keyledger

.PHONY: check
check: lint ## Lint, and prove that generated code is current and every query fits the schema
	rm -rf db/*.sql.go internal/api/server.gen.go client/client.gen.go web/dist
	$(MAKE) generate web
	$(GO) mod tidy -diff
	@test -z "$$(git status --porcelain -- db internal/api client web)" || \
		{ git status --short -- db internal/api client web; echo "generated code was not current: commit what make generate web made"; exit 1; }
	$(MAKE) vet-queries

.PHONY: vet-queries
vet-queries: postgresql
	$(GO) run ./internal/pgtest/withdb $(TOOL) sqlc vet

.PHONY: generate
generate: ## Generate code from queries/ and openapi.yaml
	$(TOOL) sqlc generate
	$(TOOL) oapi-codegen -config internal/api/oapi-codegen.yaml internal/api/openapi.yaml
	$(TOOL) oapi-codegen -config client/oapi-codegen.yaml internal/api/openapi.yaml

.PHONY: web
web: web-tools ## Build the console, web/dist, from its TypeScript sources
	cd web && npm run -s generate && npm run -s check && npm run -s build

.PHONY: web-tools
web-tools: node
	@node -e 'const [major, minor] = process.versions.node.split(".").map(Number); process.exit(major > 20 || major === 20 && minor >= 19 ? 0 : 1)' || \
		{ echo "the console is built with Node 20.19 or newer, and this is $$(node --version)" >&2; exit 1; }
	@cd web && npm ci --no-audit --no-fund --ignore-scripts --silent

.PHONY: screenshots
screenshots: browser postgresql web-tools ## Take the pictures of docs/screenshots anew
	KEYLEDGER_TEST_SCREENSHOTS=$(CURDIR)/docs/screenshots $(GO) test -count 1 -run 'TestConsole(Pages|WalkThroughs|Batch)$$' ./cmd/keyledger

.PHONY: lint
lint: lint-migrations lint-openapi lint-sql lint-files lint-proxies ## Run the linters
	$(GO) vet -tags citus ./...
	$(TOOL) golangci-lint run --build-tags citus ./...

.PHONY: lint-migrations
lint-migrations: node
	tools/lint-migrations

# SQL is code: no line is wider than 120 columns, but for the sentences of COMMENT ON.
.PHONY: lint-sql
lint-sql:
	@! awk 'length > 120 && !/COMMENT ON/ { print FILENAME ":" FNR ": " length " columns wide, 120 are allowed" }' queries/*.sql migrations/*.sql internal/scaleout/*.sql | grep .

.PHONY: lint-openapi
lint-openapi: node
	tools/lint-openapi

.PHONY: lint-files
lint-files: ## Read the files for other programs as those do: Compose, Docker, Grafana, GitHub
	$(GO) build -C tools/files -o $(CURDIR)/bin/files . && bin/files

.PHONY: lint-proxies
lint-proxies: proxies ## Read the files for proxies as those do
	tools/lint-proxies

.PHONY: vulnerabilities
vulnerabilities: ## Look for known vulnerabilities that the code reaches; needs the network
	$(TOOL) govulncheck ./...

.PHONY: release
release: ## Build binaries for Linux and macOS with their bill of materials, in dist/
	rm -rf dist && mkdir dist
	for system in linux/amd64 linux/arm64 darwin/amd64 darwin/arm64; do \
		CGO_ENABLED=0 GOOS=$${system%/*} GOARCH=$${system#*/} $(GO) build -trimpath -ldflags '$(LDFLAGS)' \
			-o dist/keyledger-$${system%/*}-$${system#*/} ./cmd/keyledger || exit 1; done
	$(TOOL) cyclonedx-gomod app -licenses -json -main cmd/keyledger -output dist/keyledger.cdx.json .
	cd dist && sha256sum * > SHA256SUMS

.PHONY: bench
bench: postgresql build ## Measure this binary on this machine, in some minutes
	bin/keyledger bench

.PHONY: bench-full
bench-full: postgresql build ## The same with a million keys and ten million ledger rows
	bin/keyledger bench --full

FUZZ_TIME ?= 60s
SOAK ?= 10m
FUZZERS = FuzzMoney:./internal/key FuzzFields:./internal/key FuzzLookup:./internal/price FuzzLiteLLM:./internal/price FuzzReadCounts:./internal/usage \
	FuzzRequest:./relay FuzzAnswer:./relay FuzzBodies:./internal/api FuzzQueries:./internal/api FuzzExport:./internal/importer FuzzBody:./internal/alert

.PHONY: soak
soak: compiler curl postgresql redis browser proxies node python web-tools fuzz ## Fuzz, kill and starve it for long: SOAK=10m, FUZZ_TIME=60s; FAULT=ack-before-commit must fail
	KEYLEDGER_TEST_FAULT=$(FAULT) KEYLEDGER_TEST_SOAK=$(SOAK) $(GO) test -count 1 -run 'Test(Crash|Faults|ClockSteps|RollingRestart|RollUpStopped)$$' -parallel 1 -v -timeout 3h ./cmd/keyledger
	$(GO) test -run Property ./internal/key -rapid.checks=100000
	$(GO) test -run Histories ./internal/admit -rapid.checks=10000 -timeout 30m
	KEYLEDGER_TEST_SOAK=60s $(GO) test -run Deadlocks -v ./cmd/...
	KEYLEDGER_TEST_SOAK=120s $(GO) test -run Neighbours -v -timeout 60m ./cmd/...
	$(GO) test -race -count 10 -timeout 60m ./internal/api ./internal/upkeep ./internal/verify ./internal/admit

.PHONY: fuzz
fuzz: postgresql ## Fuzz every decoder and rule, each for FUZZ_TIME
	for one in $(FUZZERS); do $(GO) test -run '^$$' -fuzz "^$${one%%:*}$$" -fuzztime $(FUZZ_TIME) "$${one#*:}" || exit 1; done

SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
INSTALL = if command -v apt-get >/dev/null; then $(SUDO) apt-get update -qq && DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get install -y -qq --no-install-recommends $(1); \
	elif command -v brew >/dev/null; then brew install $(2); else echo "install $(1) by hand" >&2; exit 1; fi

.PHONY: postgresql
postgresql:
	@[ -n "$$KEYLEDGER_PG_BIN" ] || command -v postgres >/dev/null || ls /usr/lib/postgresql/*/bin/postgres /usr/pgsql-*/bin/postgres /opt/homebrew/opt/postgresql@*/bin/postgres 2>/dev/null | grep -q . || \
		{ echo "installing PostgreSQL"; $(call INSTALL,postgresql,postgresql@17); }

# The race detector is C.
.PHONY: compiler
compiler:
	@command -v gcc >/dev/null || command -v clang >/dev/null || \
		{ echo "installing a C compiler for the race detector"; $(call INSTALL,gcc libc6-dev,gcc); }

.PHONY: curl
curl:
	@command -v curl >/dev/null || { echo "installing curl for the walk-through of README"; $(call INSTALL,curl,curl); }

.PHONY: node
node:
	@command -v npx >/dev/null || { echo "installing npm for the linters of migrations and openapi.yaml"; $(call INSTALL,npm,node); }

.PHONY: python
python:
	@command -v python3 >/dev/null || { echo "installing Python for the test of LiteLLM's hook"; $(call INSTALL,python3,python); }

.PHONY: redis
redis:
	@command -v redis-server >/dev/null || { echo "installing Redis for the tests of moving in"; $(call INSTALL,redis-server,redis); }

.PHONY: proxies
proxies:
	@command -v nginx >/dev/null && command -v caddy >/dev/null && command -v haproxy >/dev/null && command -v pgbouncer >/dev/null && command -v prometheus >/dev/null && \
		{ [ "$$(uname)" != Linux ] || ls /usr/lib*/faketime/libfaketime.so.1 /usr/lib/*/faketime/libfaketime.so.1 2>/dev/null | grep -q .; } || \
		{ echo "installing nginx, Caddy, HAProxy, PgBouncer, Prometheus and libfaketime for the tests beside them"; $(call INSTALL,nginx-light caddy haproxy pgbouncer prometheus libfaketime,nginx caddy haproxy pgbouncer prometheus); }

.PHONY: browser
browser:
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || [ -d "/Applications/Google Chrome.app" ] || \
		{ echo "installing a browser for the tests of pages"; $(call INSTALL,chromium fonts-wqy-microhei,--cask google-chrome); }
