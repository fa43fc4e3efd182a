"""The durable half, called by the Restate server: a workflow for each order, its steps journaled."""

import restate
import shop
from restate import Workflow, WorkflowContext

pool = shop.connection_pool()
order_workflow = Workflow("order")


@order_workflow.main()
async def fulfil(ctx: WorkflowContext, order: shop.Order) -> None:
    await ctx.run_typed("store", store, order=order)
    decided = await ctx.run_typed("pay", pay, order=order)
    await ctx.run_typed("settle", settle, decided=decided)
    await ctx.run_typed("notify", notify, decided=decided)


# A step is done again if its end was not journaled. So those that add something ask whether they have.


async def store(order: shop.Order) -> None:
    await pool.open()  # once; the Restate app has no lifespan
    async with pool.connection() as conn:
        await conn.execute(shop.STORE_ORDER, order)


async def pay(order: shop.Order) -> shop.Decided:
    async with pool.connection() as conn:
        if (await conn.execute(shop.FIRST_TIME, {**order, "step": "pay"})).rowcount:
            await conn.execute(shop.PAY, order)
        return shop.decided(order, await (await conn.execute(shop.OUTCOME, order)).fetchone())


async def settle(decided: shop.Decided) -> None:
    async with pool.connection() as conn:
        await conn.execute(shop.SETTLE, decided)


async def notify(decided: shop.Decided) -> None:
    async with pool.connection() as conn:
        if (await conn.execute(shop.FIRST_TIME, {**decided, "step": "notify"})).rowcount:
            await conn.execute(shop.NOTIFY, decided)


app = restate.app(services=[order_workflow])
