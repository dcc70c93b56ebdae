"""The report of a study: one HTML page that needs no network. Templates by Jinja2, plots by plotly, both of the extra ``report``."""
