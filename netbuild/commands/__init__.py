"""The commands, a file for each purpose. They register with `netbuild.commands.base.app` when they are imported."""
