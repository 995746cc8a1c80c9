"""Campaigns: policies x values x seeds of one or several labs, computed once each, with statistics and figures."""
