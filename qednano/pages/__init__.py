"""What HTML pages share: text of models as safe HTML, KaTeX, charts and the look. Knows neither runs nor servers."""
