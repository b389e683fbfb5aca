"""The web page that shows a store: serve it here, or write it beside a store; links to others."""
