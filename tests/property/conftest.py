"""What holds for all properties."""

from hypothesis import HealthCheck, settings

# how fast examples are made says nothing on a machine that is busy with other tests
settings.register_profile("beside others", suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("beside others")
