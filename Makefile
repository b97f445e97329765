# Every target sets up what it needs; `make help` lists them.
# The newest Python this project supports that runs here, unless PYTHON says otherwise:
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do $$p -c '$(SUPPORTED)' 2>/dev/null && echo $$p && break; done)
BIN := $(CURDIR)/.venv/bin
# modules are compiled once, not by every process anew
unexport PYTHONDONTWRITEBYTECODE
# threads that wait for one another must not keep the cores busy
export OMP_WAIT_POLICY := passive
export PATH := $(BIN):$(PATH)
COVERED := --cov=$(CURDIR)/mlserve --cov-report=
# what `make tests` runs: all of them, or those that one is at work on
TESTS ?= tests
UV := $(BIN)/uv pip install --quiet --python $(BIN)/python
.DEFAULT_GOAL := help
.PHONY: help simulate story setup serve test test-slow test-new test-lab test-gx test-ceph test-actions slug model wheel tagged check lint types lessons tests browser outputs outputs-low outputs-high outputs-top outputs-tutorials coverage export lab docs bench bench-peers hooks requirements lock chromium clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: .venv/.ready ## Install everything into .venv

.venv/.ready: .ci/lock.txt settings.ini setup.py pyproject.toml
	@test -n "$(PYTHON)" || { echo "mlserve needs Python 3.11, 3.12 or 3.13; none was found. Install one, or run make PYTHON=/path/to/python"; exit 1; }
	@echo "installing into .venv with $(PYTHON) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(UV) --require-hashes -r .ci/lock.txt
	@$(UV) --no-deps -e .
	@touch $@

serve: setup ## Train the default model, release it where git can, and serve it with its page on http://127.0.0.1:8000
	mlserve train
	@# held (10), too little data (11), nothing new (12) or no git to release to (13): what stands in models is served
	@mlserve release || case $$? in 10|11|12|13) ;; *) exit 1;; esac
	mlserve serve

test: check ## Run what CI runs, but for make slug and make wheel
	$(MAKE) --no-print-directory -j2 --output-sync=target lessons types lint
	$(MAKE) --no-print-directory tests
	$(MAKE) --no-print-directory -j4 --output-sync=target outputs-high outputs-top outputs-low outputs-tutorials docs browser
	$(MAKE) --no-print-directory coverage

check: setup ## Are notebooks clean, modules exported, README and requirements up to date?
	python .ci/check_export.py
	python .ci/requirements.py --check
	@! grep -rlE '^ *"?(<{7}|>{7}) ' nbs --include='*.ipynb'

lint: setup
	ruff format --check -q .
	ruff check -q .
	flake8 . --count --select=E9,F63,F7,F82 --show-source --statistics
	flake8 . --count --max-complexity=10 --max-line-length=127 --statistics
	jactionlint --shellcheck=
	zizmor --offline --quiet .github
	check-jsonschema -q --builtin-schema vendor.github-workflows .github/workflows/*.yml
	check-jsonschema -q --builtin-schema vendor.dependabot .github/dependabot.yml

types: setup
	mypy mlserve

lessons: setup # every notebook of the library, in process
	nbdev-test

tests: setup # by three processes, as tests of services wait a good deal
	rm -f .coverage .coverage.*
	COVERAGE_FILE=.coverage.tests pytest -q -n 3 --dist worksteal -m "not slow and not ceph and not gx and not clients and not actions and not new and not site" $(COVERED) --ignore=tests/browser $(TESTS)

browser: setup chromium # a process of its own: Playwright leaves an event loop running
	COVERAGE_FILE=.coverage.browser pytest -q -m "not slow and not site and not lab" $(COVERED) tests/browser

outputs: outputs-low outputs-high outputs-top outputs-tutorials # every notebook in a fresh kernel, saved outputs compared

outputs-low: setup
	COVERAGE_FILE=.coverage.low pytest -q --nbval $(COVERED) $(wildcard nbs/[012]*.ipynb)

outputs-high: setup
	COVERAGE_FILE=.coverage.high pytest -q --nbval $(COVERED) $(wildcard nbs/3*.ipynb)

outputs-top: setup
	COVERAGE_FILE=.coverage.top pytest -q --nbval $(COVERED) $(filter-out nbs/0% nbs/1% nbs/2% nbs/3%,$(wildcard nbs/*.ipynb nbs/examples/*.ipynb))

outputs-tutorials: setup # whose code the other notebooks cover
	pytest -q --nbval $(wildcard nbs/tutorials/*.ipynb)

coverage: # of what tests, browser and outputs ran
	coverage combine -q
	coverage report --skip-covered --fail-under=90

test-slow: setup ## Run the tests that take long: every stored pipeline, every folded one, coverage of intervals, the benchmark
	pytest -q -m slow tests

story: setup ## A year: a model serves, the world moves, a worse model is held, better ones go live; minutes
	python scripts/story.py
	pytest -q tests/test_story.py -m "not slow"

simulate: setup ## Simulate what the gate and the drift monitor promise; minutes
	OMP_NUM_THREADS=1 python scripts/simulate.py

test-new: setup ## Make five projects with mlserve new, test, serve and ask each
	pytest -q -rP -m new tests/test_new.py # which says how long each step took

test-lab: setup chromium ## Change a notebook in the real JupyterLab, in Chromium; export, test and serve it
	pytest -q -m lab tests/browser

test-gx: setup ## Run the test against the real Great Expectations, in an environment of its own
	test -x .venv-gx/bin/python || uv venv -q .venv-gx
	uv pip install -q --python .venv-gx/bin/python -e '.[train]' great_expectations pytest hypothesis
	.venv-gx/bin/python -m pytest -q -p no:cacheprovider -c /dev/null --rootdir=. -m gx tests/test_exchange.py

model: setup # what a slug is built with: the model in service, from the store; a new one where there is no store
	@mlserve slug bake || { test $$? = 7 && mlserve train; }

wheel: setup ## Build the package into dist
	python -m build --installer uv

tagged: setup # is the tag of this release the version of the code?
	@test "v$$(mlserve version)" = "$(GITHUB_REF_NAME)" || { echo "the tag $(GITHUB_REF_NAME) is not the version $$(mlserve version) of mlserve/__init__.py"; exit 1; }

test-actions: setup ## Run the workflows, with act, in a clean clone, against stand-ins for what is outside
	pytest -q -m actions tests

slug: setup ## Build what Heroku would build from this commit, and hold it against the budgets of settings.ini
	@ls models/*/manifest.json > /dev/null 2>&1 || mlserve train
	mlserve slug

test-clients: setup ## Run the test against the clients of Triton and MLflow, in an environment of their own
	test -x .venv-clients/bin/python || uv venv -q .venv-clients
	uv pip install -q --python .venv-clients/bin/python 'tritonclient[http]' mlflow-skinny pandas scipy fastapi
	pytest -q -m clients tests/test_clients.py

test-ceph: setup ## Run the store's tests against Ceph's S3 gateway, which checks signatures (Debian; installed where root)
	@command -v radosgw >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq \
	  && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends ceph-mon ceph-osd radosgw ceph-common >/dev/null; } \
	  || { echo "Ceph was not found; install ceph-mon, ceph-osd, radosgw and ceph-common"; exit 1; }
	pytest -q -m ceph tests/test_store.py

chromium: # browser tests say why they skip where it cannot be had
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	  && apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null; } || true

export: setup ## Clean, format and export the notebooks; write README.md
	nbdev-clean
	ruff format -q .
	nbdev-export
	python docs/nbdoc.py

lab: setup ## Open the notebooks in JupyterLab
	jupyter lab nbs $(ARGS)

docs: setup chromium ## Build the site into docs/_build/html, and try its links and its search
	sphinx-build -q -W --keep-going docs docs/_build/html
	pytest -q -m site tests/test_site.py
	pytest -q -m site tests/browser/test_site_in_a_browser.py

bench: setup ## Measure how fast it serves, beside others (needs wrk; a minute with ARGS=--quick)
	python bench/run.py $(ARGS)

bench-peers: setup # BentoML, LitServe and MLflow, each in an environment of its own, for the next `make bench`
	python bench/environments.py

hooks: setup ## Format and export on each commit, and show notebooks as text in git diff
	pre-commit install
	nbdev-install-hooks

requirements: setup ## Write what Heroku installs from settings.ini and the lock
	python .ci/requirements.py

lock: setup ## Pin the newest tools and libraries for development and CI
	uv pip compile -q --universal --upgrade --python-version 3.11 --generate-hashes --extra dev -o .ci/lock.txt setup.py
	$(UV) --require-hashes -r .ci/lock.txt
	python .ci/requirements.py

clean: ## Remove what the other targets made, .venv included
	rm -rf .venv build dist reports models/*/ trained cache docs/_build docs/guide docs/generated docs/models docs/reference docs/start.md bench/work .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache
