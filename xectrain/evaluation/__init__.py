"""Studies of trained models: predictions made, compared with classical methods, written as tables, plots and pages.

`results` holds the records, made by `evaluate`, `sensors`, `lines`, `dead` …, shown by `report`, `pages`, `plots`.
May import everything in xectrain but `cli` and `exporting`; nothing imports it but `cli`.
"""
