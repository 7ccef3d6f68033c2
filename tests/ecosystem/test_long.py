"""What only `make test-ecosystem` runs still goes with what it shares with the rest."""

import importlib
import unittest
from pathlib import Path


class Long(unittest.TestCase):
    def test_every_long_test_can_be_loaded(self):
        names = sorted(file.stem for file in Path(__file__).parent.glob("long_*.py"))
        self.assertIn("long_alerts", names)
        for name in names:
            with self.subTest(name):
                module = importlib.import_module(name)
                self.assertTrue(unittest.defaultTestLoader.loadTestsFromModule(module).countTestCases())


if __name__ == "__main__":
    unittest.main()
