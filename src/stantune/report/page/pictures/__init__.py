"""The pictures of the report page, as Plotly has them."""
