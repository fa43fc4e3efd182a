"""What customers ask of a system while the suite puts it through a fault."""

from choreo.chaos.load import Rates

RATES = Rates(registrations=0.8, deposits=2.5, orders=8.0, cancels=1.5)
"""Less than two cores can do beside another test. What is more waits in queues, and is waited for after each
fault; `choreo chaos` asks for more.
"""
