"""Settings of all tests."""

from hypothesis import settings

settings.register_profile("steady", deadline=None)  # a busy machine or a first compilation is no failure
settings.load_profile("steady")
