"""Plugin that ASE finds under the entry point `ase.plugins`; nothing else imports this module."""

try:
    from ase._4.plugins.plugin import CalculatorPlugin
except ImportError:  # this version of ASE has no plugins, or has them elsewhere
    __ase_plugins__ = set()
else:
    __ase_plugins__ = {
        CalculatorPlugin("nnxc", citation="see CITATION.cff", implementation="ase_nnxc.calculator.NNXCCalculator")
    }
