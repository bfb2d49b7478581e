"""`sstpfarm certificate show`: the server's certificate, and how Windows comes to trust it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from sstpfarm.cli.commands import config_option
from sstpfarm.config.load import load
from sstpfarm.master.certificate import describe_certificate

IMPORT: Final = """
Windows trusts it after one of these, with the file copied to the client. PowerShell as administrator:
  Import-Certificate -FilePath .\\{file} -CertStoreLocation Cert:\\LocalMachine\\Root
Command prompt as administrator:
  certutil -addstore -f Root {file}
Compare its SHA-256 before:
  certutil -dump {file}
Clients must dial one of the names above; the key certificate-names adds more.
sstpfarm connect: --ca {file}, or --pin sha256:{sha256}"""


@click.group()
def certificate() -> None:
    """The server's certificate."""


@certificate.command("show")
@config_option
def show_certificate(path: Path) -> None:
    """Show the certificate's file, names and SHA-256, and how clients come to trust it."""
    found = describe_certificate(load(path))
    click.echo(f"file     {found.path}")
    click.echo(f"subject  {found.subject}")
    click.echo(f"issuer   {found.issuer}")
    click.echo(f"names    {', '.join(found.names)}")
    click.echo(f"valid    {found.not_before:%Y-%m-%d} to {found.not_after:%Y-%m-%d}")
    click.echo(f"SHA-256  {found.sha256}")
    if found.self_signed:
        click.echo(IMPORT.format(file=found.path.name, sha256=found.sha256))
