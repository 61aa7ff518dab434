"""What the tests of programs share."""

from conf.choices import Sandbox
from train.evaluate.sandbox import isolation

ALLOWED = Sandbox.full if isolation() is None else Sandbox.limits_only  # where there are no namespaces, test the rest
