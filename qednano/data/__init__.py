"""Problems: one row schema, the sources that rows come from, and the pipeline that turns them into an artifact."""
