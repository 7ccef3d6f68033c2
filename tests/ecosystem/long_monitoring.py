"""Rules, routes and boards at work, as tests/deploy sees them, under the newest Prometheus."""

import unittest

import test_monitoring_running


class Newest(test_monitoring_running.Running):
    prometheus_program = "prometheus-3"


if __name__ == "__main__":
    unittest.main()
