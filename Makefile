# The commands of the course; `make help` lists them. Python 3.11 is all that has to be there.
SHELL := bash
PYTHON ?= python3.11
# Where the environment goes; empty: use $(PYTHON) as it is (Colab's image).
VENV ?= .venv
# What pins it; empty: the newest versions that pyproject.toml allows.
CONSTRAINTS ?= constraints.txt
PY := $(if $(VENV),$(VENV)/bin/python,$(PYTHON))
# A server, an old checkout or a user's settings must not decide what the tests see.
export PYTHONNOUSERSITE := $(if $(VENV),1,)
export PYTHONUNBUFFERED := 1
.DEFAULT_GOAL := help

.PHONY: help
help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-16s %s\n", $$1, $$2}' Makefile

.PHONY: env
env: ready ## make .venv with everything, pinned by constraints.txt
	@echo "make env: $$($(PY) --version), $$($(PY) -c 'import sys; print(sys.prefix)'), ready"

.PHONY: ready
ready: $(if $(VENV),$(VENV)/.stamp)

$(VENV)/.stamp: pyproject.toml $(CONSTRAINTS) package-lock.json tools/env.py
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) is missing. Install Python 3.11, or name another: make PYTHON=python3.12 …" >&2; exit 1; }
	@$(PYTHON) tools/env.py --venv "$(VENV)" --constraints "$(CONSTRAINTS)"

.PHONY: book
book: ready ## re-run the notebooks that are out of date, build the book, print the page to open
	@$(PY) tools/steps.py --stop "make book" stale site

.PHONY: serve
serve: ready ## build the book and serve it on this machine
	@$(PY) tools/site.py serve

.PHONY: test
test: ready ## lint, tests, every notebook through nbval, browser checks
	@$(PY) tools/steps.py "make test" lint browser unit check-notebooks

.PHONY: notebooks
notebooks: ready ## re-run every notebook (NAME=01 only some)
	@$(PY) tools/notebooks.py update --force $(NAME)

.PHONY: test-gpu
test-gpu: ready ## what the GPU job runs: every notebook (nbval, lax) and the tests that need a GPU
	@$(PY) -c "import sys, torch; torch.cuda.is_available() or sys.exit('make test-gpu: this machine has no GPU that torch can use')"
	@$(PY) tools/steps.py "make test-gpu" unit-gpu check-notebooks-lax

.PHONY: lab
lab: ready ## open the notebooks in JupyterLab
	@$(PY) -c "import jupyterlab" 2>/dev/null || $(PY) -m pip install --quiet $(addprefix -c ,$(CONSTRAINTS)) "jupyterlab>=4"
	@$(PY) -m jupyterlab --notebook-dir=notebooks

.PHONY: experiments
experiments: ready ## run the recorded experiments that are missing or out of date
	@$(PY) -m attn_course.experiments run

# Which preset, and which file; this machine's own in results/ unless given.
PRESET ?= course
OUT ?=
.PHONY: bench
bench: ready ## measure this machine, peers beside it, into results/ (PRESET=smoke|course|full OUT=file.json)
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps -r tools/peers.txt
	@$(PY) -m attn_course.cli bench run --preset $(PRESET) $(if $(OUT),--out $(OUT)) --resume

.PHONY: scenarios
scenarios: ready ## hold the selector's answers against measurements of this machine (OUT=file.json)
	@$(PY) -m attn_course.cli scenarios run $(if $(OUT),--out $(OUT)) --resume

.PHONY: student
student: ready ## write the notebooks without outputs and answers, to hand out, into student/ (OUT=folder)
	@$(PY) tools/student.py $(if $(OUT),--out "$(OUT)")

.PHONY: colab
colab: ready ## run the chapters that changed with Colab's versions, and record that they passed
	@OMP_NUM_THREADS=1 $(PY) tools/colab.py record

.PHONY: set-repository
set-repository: ready ## carry the repository's address everywhere: make set-repository URL=https://github.com/OWNER/NAME
	@$(PY) tools/repository.py $(if $(URL),"$(URL)",$(error say which: make set-repository URL=https://github.com/OWNER/NAME))

.PHONY: constraints
constraints: ## renew constraints.txt from a fresh environment
	@$(PYTHON) tools/constraints.py

# The steps of the above, each also by itself.
.PHONY: lint browser unit unit-gpu check-notebooks check-notebooks-lax stale status site
lint: ready
	@$(PY) tools/lint.py

browser: ready
	@$(PY) tools/browser.py

# Two processes, one thread each: with torch's default threads two processes get in each other's way.
unit: ready
	@OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(PY) -m pytest -q -n 2 --dist loadfile tests

unit-gpu: ready
	@$(PY) -m pytest -q -m gpu $$(grep -l 'mark\.gpu' tests/*.py)

check-notebooks: ready
	@$(PY) tools/notebooks.py check

check-notebooks-lax: ready
	@$(PY) tools/notebooks.py check --lax

stale: ready
	@$(PY) tools/notebooks.py update

status: ready
	@$(PY) tools/notebooks.py status

site: ready
	@$(PY) tools/site.py build
