"""Face models, identification (1:N), verification (1:1) and the policy that decides."""
