"""Pages in a browser, and the HTTP interface behind them."""
