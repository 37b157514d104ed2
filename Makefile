# Every target sets up what it needs (see .ci/setup) and is quick the second time.
.DEFAULT_GOAL := help
.PHONY: help install demo docs screenshots test lint contracts types manifest pytest wheel-check

bin := .venv/bin

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: ## set up Debian packages, .venv, the package and its tools
	@.ci/setup

demo: install ## find tree crowns in a real aerial image, and show them in napari
	@mkdir -p build
	@.ci/screen --or-display $(bin)/napari-xt demo --out build/demo.xt.zarr --screenshot build/demo.png

docs: install ## build the documentation, strictly, into build/site
	@NO_MKDOCS_2_WARNING=1 $(bin)/mkdocs build --quiet --strict --config-file .mkdocs.yml

screenshots: install ## take the pictures of the documentation again
	@.ci/screen $(bin)/python docs/screenshots.py

test: lint contracts types manifest pytest ## all that must pass

lint: install ## style, format, spelling
	@$(bin)/ruff check
	@$(bin)/ruff format --check
	@$(bin)/typos

contracts: install ## which module may import which
	@$(bin)/lint-imports

types: install ## static types of src
	@$(bin)/mypy

manifest: install ## the napari manifest and the functions it names
	@$(bin)/npe2 validate --imports src/napari_xt/napari.yaml

pytest: install ## the tests alone, on a virtual screen, a file a process
	@.ci/screen $(bin)/pytest --numprocesses auto --maxprocesses 4 --dist loadfile

wheel-check: install ## install the wheel into a fresh environment and use it there
	@.ci/wheel-check
