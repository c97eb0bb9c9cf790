"""The command line: the only place where stages, trainer, settings and terminal meet."""

import typer

from etl.cli import (
    build,
    check,
    downstream,
    evaluate,
    experiment,
    explore,
    export,
    fetch,
    labels,
    look,
    raw,
    sources,
    train,
)  # fmt: skip

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    rich_markup_mode=None,  # drawing boxes costs a third of the time of `--help`
)
for command in (
    build.build, build.stage, look.stats, look.quarantine, look.locate, check.report, check.diff, check.leakcheck,
    explore.explore, export.export, evaluate.evaluate, train.train, experiment.predict, train.ground, train.onnx,
    raw.decode, raw.demo,
):  # fmt: skip
    app.command()(command)
sources.app.command("fetch")(fetch.sources_fetch)
for name, topic in (("sources", sources), ("labels", labels), ("experiment", experiment), ("downstream", downstream)):
    app.add_typer(topic.app, name=name)

if __name__ == "__main__":
    app()
