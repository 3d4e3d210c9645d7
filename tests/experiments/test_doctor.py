"""The diagnosis of this machine."""

from fcf_jax import cli


def test_doctor_finds_the_solver_exact(capsys):
    assert cli.main(["doctor"]) == 0
    printed = capsys.readouterr().out
    for expected in ("jaxlib", "optax", "devices", "cores", "default precision", "error to float64"):
        assert expected in printed
