"""Sentences of the slides, tested: what they say (`conf/claims`), what the published and our own numbers say of them.

`read`: the YAML. `sources`: numbers, ours and published, behind one face. `kinds`: how a sentence becomes cases, each a
pure function. `judge`: from cases to a verdict. `show`: Markdown and console.
"""
