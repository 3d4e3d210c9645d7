"""Everything people read about runs, comparisons, audits and tunings: pages, tables and figures."""
