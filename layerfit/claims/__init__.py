"""Claims of the slides (`conf/claims`), tested on the published and on our own numbers.

`read`: the YAML. `sources`: numbers, ours and published, behind one interface. `kinds`: tests, each a pure function
from numbers to cases. `judge`: from cases to a verdict. `show`: Markdown and console.
"""
