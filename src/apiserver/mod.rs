//! The aggregated API: Kubernetes' wire protocol over registered kinds. Knows no kind by name below `kinds`.
