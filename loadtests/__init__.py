"""Load tests of the service: Locust with open arrivals, judged answers, objectives."""
