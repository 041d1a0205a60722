def offer(folder, monkeypatch, entry_points):
    """Install a distribution with these entry points."""
    installed = folder / "offered-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: offered\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(entry_points)
    monkeypatch.syspath_prepend(str(folder))
