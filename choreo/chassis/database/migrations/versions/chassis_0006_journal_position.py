"""The journal in the order in which it is written, for those who follow its end."""

from alembic import op

revision = "chassis_0006"
down_revision = "chassis_0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("CREATE INDEX journal_position ON journal (position)")
