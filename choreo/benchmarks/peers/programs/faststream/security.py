"""How the three services get into Kafka."""

import shop
from faststream.security import SASLPlaintext

SECURITY = SASLPlaintext(shop.KAFKA["sasl_plain_username"], shop.KAFKA["sasl_plain_password"])
