"""A record says how it was made and nothing of where the checkout lies."""

from layerfit.records.manifest import ROOT, command, manifest


def test_the_command_holds_no_place_of_this_machine():
    assert command([str(ROOT / "layerfit" / "__main__.py"), "method=lisa"]) == ["layerfit/__main__.py", "method=lisa"]
    assert command(["/somewhere/bin/pytest", "-q"]) == ["pytest", "-q"]
    assert str(ROOT) not in str(manifest("cpu", {}))
