"""`shem activity ps|attach|exec|cp|logs|report|detach|destroy`: what a requestor does from a shell.

How an activity is named: `activity_lookup`.
"""

import sys
from pathlib import Path
from typing import Any

import click

from shem.cli.activity_copy import cp
from shem.cli.activity_live import Telling, pass_on
from shem.cli.activity_lookup import attach_by_name, list_activities, one_of, with_golem
from shem.cli.activity_rows import command_names, report_fields, report_row, result_row, timeline
from shem.cli.ask import show_fields, show_json, show_table
from shem.cli.main import EXIT_FAILED, EXIT_GONE, Options
from shem.rest.models import Batch
from shem.sdk.activity import Activity
from shem.sdk.batch import CommandResult
from shem.sdk.errors import NotSupported
from shem.sdk.golem import Golem
from shem.sdk.report import ENDED
from shem.sdk.script import Run
from shem.sdk.ticket import Ticket

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
activity_argument = click.argument("activity_id", metavar="ACTIVITY")


@click.group()
def activity() -> None:
    """Rented activities: what runs, what happened, and what to do with it."""


# --- looking --------------------------------------------------------------------------------------


@activity.command()
@click.option("--all", "ended_too", is_flag=True, help="Also those that have ended.")
@json_option
@click.pass_obj
def ps(options: Options, ended_too: bool, as_json: bool) -> None:
    """List the activities that this identity has rented."""
    rows = with_golem(lambda golem: list_activities(golem, ended_too=ended_too))
    if options.json or as_json:
        show_json(rows)
    else:
        columns = ["activityId", "state", "batches", "providerId", "until", "limitedBy"]
        show_table(columns, rows)


@activity.command()
@activity_argument
@json_option
@click.pass_obj
def report(options: Options, activity_id: str, as_json: bool) -> None:
    """Tell in one go whether it lives, what ran, what is owed, how long you may be away."""

    async def work(golem: Golem) -> Activity:
        return await attach_by_name(golem, activity_id)

    found = with_golem(work)
    if options.json or as_json:
        show_json(report_row(found.report, found.id, found.agreement.id))
    else:
        show_fields(report_fields(found.report, found.id, found.agreement.id))


@activity.command()
@activity_argument
@click.option("--follow/--no-follow", default=True, help="Stay until its batches have ended.")
@json_option
@click.pass_obj
def attach(options: Options, activity_id: str, follow: bool, as_json: bool) -> None:
    """Show what happened meanwhile, then what happens; Ctrl-C lets it run on.

    Exits with 6 when the activity has ended.
    """
    telling = Telling(as_json=options.json or as_json)

    async def work(golem: Golem) -> bool:
        found = await attach_by_name(golem, activity_id)
        await _tell_story(found, telling)
        if follow and found.report.liveness != ENDED:
            with telling.progress():
                await _follow(found, telling)
        return found.report.liveness == ENDED

    if with_golem(work):
        sys.exit(EXIT_GONE)


async def _tell_story(found: Activity, telling: Telling) -> None:
    info = await found.agreement.info()
    entries = await _entries(found)
    if telling.as_json:
        row = report_row(found.report, found.id, found.agreement.id)
        telling.document("report", **row)
    telling.names = command_names(entries)
    telling.timeline(timeline(info, entries, found.report))
    for name, value in report_fields(found.report, found.id, found.agreement.id).items():
        if value is not None:
            telling.say(f"{name:<10} {value}")


async def _entries(found: Activity) -> list[Batch]:
    """Return the batches with their scripts; none at a node that keeps no list."""
    try:
        return await found.batch_entries()
    except NotSupported:
        return []


async def _follow(found: Activity, telling: Telling) -> None:
    """Tell the results of all unfinished batches as they come."""

    for batch in found.report.batches:
        if not batch.finished and batch.state in {"accepted", "unknown"}:
            read = found.cursor(batch.batch_id)
            await telling.follow(found.batch(batch.batch_id), done=read, of=batch.commands)


@activity.command()
@activity_argument
@click.argument("batch_id", required=False)
@click.option("-f", "--follow", is_flag=True, help="Stay until the batches have ended.")
@json_option
@click.pass_obj
def logs(
    options: Options, activity_id: str, batch_id: str | None, follow: bool, as_json: bool
) -> None:
    """Print the results of one batch, or of all."""
    telling = Telling(as_json=options.json or as_json)

    async def work(golem: Golem) -> None:
        found = await attach_by_name(golem, activity_id)
        telling.names = command_names(await _entries(found))
        batches = {batch.batch_id: batch for batch in found.report.batches}
        for name in batches if batch_id is None else [one_of(batch_id, list(batches))]:
            for result in batches[name].results:
                telling.result(result)
            if follow and not batches[name].finished and found.report.liveness != ENDED:
                async for result in found.batch(name).results(found.cursor(name)):
                    telling.result(result)

    with_golem(work)


# --- acting ---------------------------------------------------------------------------------------


@activity.command("exec", context_settings={"ignore_unknown_options": True})
@activity_argument
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("-d", "--detach", "leave", is_flag=True, help="Print the batch id and go.")
@json_option
@click.pass_obj
def execute(
    options: Options, activity_id: str, command: tuple[str, ...], leave: bool, as_json: bool
) -> None:
    """Run one command: `exec ACTIVITY [OPTIONS] -- ENTRY_POINT [ARGS]`.

    Its output is ours, as it is made; exits with 1 when it fails. A Ctrl-C lets it run on.
    """

    told_whole = options.json or as_json

    async def work(golem: Golem) -> tuple[str, CommandResult | None]:
        found = await attach_by_name(golem, activity_id)
        await found.raise_if_gone()
        batch = await found.submit(Run(*command))
        if leave:
            return batch.id, None
        return batch.id, (await batch.wait())[-1] if told_whole else await pass_on(batch)

    batch_id, result = with_golem(work)
    if result is None:
        if told_whole:
            show_json({"batchId": batch_id})
        else:
            click.echo(batch_id)
        return
    if told_whole:
        show_json(result_row(result))
    if not result.ok:
        if not told_whole:
            click.echo(f"Error: {result.message}", err=True)
        sys.exit(EXIT_FAILED)


@activity.command()
@activity_argument
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="A file.")
@click.pass_obj
def detach(options: Options, activity_id: str, output: Path | None) -> None:
    """Write a ticket: it remembers how far the results were read. Nothing ends."""
    del options

    async def work(golem: Golem) -> Ticket:
        return await (await attach_by_name(golem, activity_id)).detach()

    ticket = with_golem(work)
    if output is None:
        click.echo(ticket.dumps())
    else:
        ticket.save(output)
        click.echo(f"{output}", err=True)


@activity.command()
@activity_argument
@click.option("--terminate", is_flag=True, help="Terminate its agreement as well.")
@click.option("--reason", default="Finished", show_default=True, help="For the provider.")
@json_option
@click.pass_obj
def destroy(
    options: Options, activity_id: str, terminate: bool, reason: str, as_json: bool
) -> None:
    """End the activity. A provider that is away is told when it is back."""

    async def work(golem: Golem) -> dict[str, Any]:
        found = await attach_by_name(golem, activity_id)
        await found.destroy()
        if terminate:
            await found.agreement.terminate(reason)
        state = (await found.agreement.info()).state
        return {
            "activityId": found.id,
            "agreementId": found.agreement.id,
            "agreementState": state,
        }

    done = with_golem(work)
    if options.json or as_json:
        show_json(done)
    else:
        click.echo(f"destroyed; agreement {done['agreementId']} is {done['agreementState']}")


activity.add_command(cp)
