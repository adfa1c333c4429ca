# Thin on purpose: everything happens in `python -m book`, which also works without make.
PYTHON ?= python3

.PHONY: book test tidy help

book:  ## set up .venv, execute the chapters, print the book to _build/html
	$(PYTHON) -m book

test:  ## set up .venv, then style, tests and the chapters' checked cells
	$(PYTHON) -m book test

tidy:  ## bring notebook sources in order: strip, refresh checked outputs and links
	$(PYTHON) -m book tidy

help:  ## this list
	@grep -E '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed -E 's/: *## */\t/'
