"""Numbers recorded from the original programs and recipes for their inputs; tests/golden/README.md has more.

What `dit-eval certify --recorded` needs is here; tests/golden holds what only the tests compare with. The
recipes need nothing but numpy, so that they run beside the original programs.
"""
