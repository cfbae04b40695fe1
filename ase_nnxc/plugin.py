"""What ASE finds under the entry point `ase.plugins`; nothing else imports this."""

try:
    from ase._4.plugins.plugin import CalculatorPlugin
except ImportError:  # a version of ASE whose plugins are elsewhere or not there
    __ase_plugins__ = set()
else:
    __ase_plugins__ = {
        CalculatorPlugin("nnxc", citation="see CITATION.cff", implementation="ase_nnxc.calculator.NNXCCalculator")
    }
